"""A config's model, and the blocks that ``conv_cfg`` or ``base`` would make of its convolutions."""

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from functools import reduce
from importlib.util import find_spec
from inspect import Parameter, signature
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ...checks import error_text, explain_errors
from ...models import ODBBBackbone
from ...models.survey import BLOCKS, survey

CONV_CFG = dict(type='ODBBConv2d')

#: Of a config, from the outside to the inside
Keys = tuple[str | int, ...]


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


class Reached(NamedTuple):
    """Blocks that a way makes in one part of the model, and the layers whose setting makes them."""

    blocks: int
    #: Keys that lead from the model's config to each layer that gets the setting
    layers: tuple[Keys, ...] = ()


def reach(cfg: Config, parts: Iterable[str], now: Mapping[str, int]) -> dict[str, dict[str, Reached]]:
    """Way -> part of the model -> what that way reaches there.

    A ``conv_cfg`` is set in every layer of the part that takes one, less those where it makes no block; ``base`` goes
    around the part, or, where that cannot be built, around layers in it.

    Args:
        cfg: Whose model can be built.
        parts: Names of parts of the model.
        now: Part -> number of blocks in it as it is.
    """
    found: dict[str, dict[str, Reached]] = {'conv_cfg': {}, 'base': {}}
    for part in parts:
        layers = list(_layers(cfg.model.get(part), (part,)))
        taking = tuple(keys for keys, layer in layers if _takes_conv_cfg(layer))
        best = _count(cfg, part, 'conv_cfg', taking)
        for keys in taking[:-1]:
            less = tuple(other for other in taking if other != keys)
            if best and _count(cfg, part, 'conv_cfg', less) == best:
                taking = less
        found['conv_cfg'][part] = Reached(best, taking)
        around = Reached(now[part])
        for keys, _ in layers:
            if any(keys[: len(outer)] == outer for outer in around.layers):
                continue
            blocks = _count(cfg, part, 'base', (*around.layers, keys))
            if blocks > around.blocks:
                around = Reached(blocks, (*around.layers, keys))
        found['base'][part] = around
    return found


def best_way(reached: Mapping[str, Mapping[str, Reached]], part: str) -> str:
    """Choose from what `reach` returns; ``base``, which repeats a whole config, only where it gains half as much."""
    return 'base' if reached['base'][part].blocks > 1.5 * reached['conv_cfg'][part].blocks else 'conv_cfg'


def go(way: str, model: dict, layers: Iterable[Keys]) -> None:
    """Set ``conv_cfg`` of these layers of a model's config, or put each of them into ``base``. In place."""
    for *outer, key in layers:
        parent = reduce(lambda node, key: node[key], outer, model)
        if way == 'base':
            parent[key] = dict(type='mmpretrain.ODBBBackbone', base=parent[key])
        else:
            parent[key]['conv_cfg'] = CONV_CFG


def _count(cfg: Config, part: str, way: str, layers: tuple[Keys, ...]) -> int:
    """Number of blocks in a part when a way is gone with these layers; 0 where it cannot be built so."""
    if not layers:
        return 0
    model = deepcopy(cfg.model)
    go(way, model, layers)
    for device in ('meta', 'cpu'):  # without weights it takes a fifth of the time, where the model's code can do that
        try:
            with torch.device(device):
                found = survey(build(cfg, model))
        except Exception:  # foreign code says what it likes to a setting that it was not made for
            continue
        return sum(c.part == part and c.kind in BLOCKS for c in found)
    return 0


def _layers(node, keys: Keys) -> Iterator[tuple[Keys, dict]]:
    """Yield the configs of modules in ``node``, from the outside to the inside, with the keys that lead to them."""
    if isinstance(node, dict) and 'type' in node:
        kind = _class(node['type'])
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            yield keys, node
    if isinstance(node, dict | list | tuple):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if not any(word in str(key) for word in ('_cfg', 'loss')):  # norms, activations and losses are modules too
                yield from _layers(value, (*keys, key))


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


def _takes_conv_cfg(layer: dict) -> bool:
    """True if a layer takes ``conv_cfg``, maybe through ``**kwargs``, and has none but for ordinary convolutions."""
    kind = _class(layer['type'])
    for base in () if issubclass(kind, ODBBBackbone) else kind.__mro__:
        parameters = signature(base).parameters
        if 'conv_cfg' in parameters:
            default = parameters['conv_cfg'].default
            given = layer.get('conv_cfg', None if default is Parameter.empty else default)
            return given is None or given.get('type') in ('Conv', 'Conv2d')
        if not any(p.kind == Parameter.VAR_KEYWORD for p in parameters.values()):
            break
    return False
