"""A config's model, and the blocks that ``conv_cfg`` or ``base`` would make of its convolutions."""

from collections import Counter
from collections.abc import Iterable, Iterator
from copy import deepcopy
from importlib.util import find_spec
from inspect import Parameter, signature

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ..checks import error_text, explain_errors
from ..models import ODBBBackbone
from ..models.survey import BLOCKS, survey

CONV_CFG = dict(type='ODBBConv2d')


def read_config(name: str) -> Config:
    """Read a config from its path or as ``mmdet::...``; MMEngine would install that package if it is not there.

    Raises:
        ValueError: if it, a base of it or its package is not there.
    """
    package, inside, _ = name.partition('::')
    if inside:
        _check_installed(name, package)
    try:
        cfg = get_config(name) if inside else Config.fromfile(name)
    except Exception as e:
        raise ValueError(f"Config '{name}' cannot be read: {error_text(e)}.") from e
    if not cfg.get('model'):
        raise ValueError(f"Config '{name}' has no model to describe.")
    _check_installed(name, cfg.get('default_scope') or 'mmengine')
    return cfg


def _check_installed(name: str, package: str) -> None:
    if find_spec(package) is None:
        raise ValueError(f"Config '{name}' needs the package {package}, which is not installed.")


def build(cfg: Config, model: dict | None = None) -> nn.Module:
    """Build the config's model, or that of another ``model``, as a runner would, in training mode."""
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    model = deepcopy(cfg.model if model is None else model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with explain_errors("The config's model cannot be built"):
        built = MODELS.build(model)
    built.train()  # which is where some backbones freeze their first stages
    return built


def reach(cfg: Config, parts: Iterable[str]) -> dict[str, Counter]:
    """Way -> number of blocks in each of these parts of the model, 0 where the part cannot be built so."""
    reached: dict[str, Counter] = {'conv_cfg': Counter(), 'base': Counter()}
    for part in parts:
        for way, edit in (('conv_cfg', _set_conv_cfg), ('base', _set_base)):
            model = deepcopy(cfg.model)
            if part not in model or not edit(model, part):
                continue
            try:
                found = survey(build(cfg, model))
            except Exception:  # foreign code says what it likes to a setting that it was not made for
                continue
            reached[way][part] = sum(c.part == part and c.kind in BLOCKS for c in found)
    return reached


def _set_conv_cfg(model: dict, part: str) -> bool:
    """Set ``conv_cfg`` wherever the layers of a part take one; True if any does."""
    changed = False
    for layer in typed_dicts(model[part]):
        takes, default = _conv_cfg_of(_class(layer['type']))
        given = layer.get('conv_cfg', default)
        if takes and (given is None or given.get('type') in ('Conv', 'Conv2d')):
            layer['conv_cfg'], changed = CONV_CFG, True
    return changed


def _set_base(model: dict, part: str) -> bool:
    """Put a part into ``ODBBBackbone(base=...)``; True if its config is that of a layer, or a list of such."""
    given = model[part]
    several = isinstance(given, list)
    if not all(isinstance(layer, dict) and 'type' in layer for layer in (given if several else [given])):
        return False
    new = [dict(type='mmpretrain.ODBBBackbone', base=layer) for layer in (given if several else [given])]
    model[part] = new if several else new[0]
    return True


def typed_dicts(node) -> Iterator[dict]:
    """All dicts with a type in a config, from the outside to the inside."""
    if isinstance(node, dict) and 'type' in node:
        yield node
    if isinstance(node, dict | list | tuple):
        for value in node.values() if isinstance(node, dict) else node:
            yield from typed_dicts(value)


def _class(given):
    """The class that a config's ``type`` is or names."""
    if not isinstance(given, str):
        return given
    with MODELS.switch_scope_and_registry(None) as registry:  # `MODELS` itself does not look into the default scope
        return registry.get(given)


def _conv_cfg_of(cls) -> tuple[bool, dict | None]:
    """(whether a class takes ``conv_cfg``, maybe through ``**kwargs``; its default)."""
    if isinstance(cls, type) and issubclass(cls, nn.Module) and not issubclass(cls, ODBBBackbone):
        for base in cls.__mro__:
            parameters = signature(base).parameters
            if 'conv_cfg' in parameters:
                default = parameters['conv_cfg'].default
                return True, None if default is Parameter.empty else default
            if not any(p.kind == Parameter.VAR_KEYWORD for p in parameters.values()):
                break
    return False, None
