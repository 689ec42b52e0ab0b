"""Configs of a network's later forms, subnet and fused, made from the config of its search."""

from collections.abc import Callable, Mapping, Sequence
from types import FunctionType

from mmengine.config import Config, ConfigDict

from ..search.genotype import Genotype


def subnet_config(cfg: Config, genotype: Genotype) -> Config:
    """Return ``cfg`` with every ODBBBackbone built as the subnet of ``genotype``, and without a search.

    An ODBBConv2d of a ``conv_cfg`` needs no change: it takes its branches from the subnet's checkpoint.
    """
    cfg = _with_names(cfg)

    def edit(node, place):
        if type_name(node) == 'ODBBBackbone':
            (node.base if 'base' in node else node).pop('init_cfg', None)
            # the name of what the config makes there, if the network has its config's names
            inside = {name[len(place) + 1 :]: kept for name, kept in genotype.items() if name.startswith(f'{place}.')}
            part = Genotype(inside, genotype.share_weights, genotype.source) if inside else genotype
            node.genotype = part.to_dict()
        return node

    cfg.model = _map_dicts(cfg.model, edit)
    return _without_run(cfg, {'RepNASHook'})


def deploy_config(cfg: Config, new_biases: Sequence[str] = ()) -> Config:
    """Return ``cfg`` of the fused network, without a search or anything left to fuse.

    Blocks that stand in for ordinary convolutions leave the stock model behind, but for the parts of it where some had
    to keep a bias that the stock model has no place for; the config of such a part says so, by ``deploy=True``.

    Args:
        cfg: Config of the search or the subnet.
        new_biases: Names of the convolutions with such a bias.
    """
    cfg = _with_names(cfg)
    biased = {name.partition('.')[0] for name in new_biases}
    # networks of semi-supervised learning have other names than their configs
    anywhere = any('ODBB' not in str(cfg.model.get(part)) for part in biased)

    def edit(node, place):
        kind = type_name(node)
        with_bias = anywhere or place.partition('.')[0] in biased
        if kind == 'ODBBConv2d':
            return ConfigDict(type=node.type, deploy=True) if with_bias else None
        if kind == 'ODBBBackbone':
            base = node.get('base')
            (base or node).pop('init_cfg', None)
            if base and not with_bias:
                return base
            node.pop('genotype', None)
            node.deploy = True
        return node

    cfg.model = _map_dicts(cfg.model, edit)
    cfg = _without_run(cfg, {'RepNASHook', 'FuseHook'})
    if 'ODBB' not in str(cfg.model):
        _drop_package(cfg)
    return cfg


def type_name(cfg: Mapping) -> str:
    """Name of the class that ``cfg`` builds, without scope; '' if it builds none."""
    kind = cfg.get('type', '')
    return kind.__name__ if isinstance(kind, type) else str(kind).split('.')[-1]


def _with_names(cfg: Config) -> Config:
    """Copy of ``cfg`` with dotted names in place of classes and functions, which pure-Python configs have.

    Raises:
        ValueError: if it has no model.
    """
    if 'model' not in cfg:
        raise ValueError(
            "The runner has no config of its model, as the subnet's and the fused network's are made from; build it "
            'with Runner.from_cfg.'
        )
    return Config(_named(cfg.to_dict()))


def _named(node):
    if isinstance(node, Mapping):
        return {key: _named(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_named(child) for child in node)
    return f'{node.__module__}.{node.__qualname__}' if isinstance(node, type | FunctionType) else node


def _map_dicts(node, edit: Callable[[ConfigDict, str], ConfigDict | None], place: str = ''):
    """Return ``node`` with every dict in it replaced by what ``edit`` makes of it; None leaves it out.

    ``edit`` gets a dict and the keys that lead to it, with dots between.
    """
    if isinstance(node, Mapping):
        node = edit(node, place)
        if node is not None:
            for key, value in list(node.items()):
                node[key] = _map_dicts(value, edit, f'{place}.{key}' if place else key)
                if node[key] is None and value is not None:
                    del node[key]
    elif isinstance(node, list | tuple):
        node = type(node)(_map_dicts(child, edit, f'{place}.{i}') for i, child in enumerate(node))
    return node


def _drop_package(cfg: Config) -> None:
    """Take this package out of the config of a stock model, which needs it no longer."""
    _drop_hooks(cfg, {'ExactResumeHook', 'CheckFiniteHook', 'SafeLoadHook'})
    if 'custom_imports' in cfg:
        cfg.custom_imports.imports = [name for name in cfg.custom_imports.imports if name != 'repnas_mm']


def _without_run(cfg: Config, hooks: set[str]) -> Config:
    """Drop these hooks, and what the run started from: a stock tool would resume from it."""
    cfg.resume, cfg.load_from = False, None
    _drop_hooks(cfg, hooks)
    return cfg


def _drop_hooks(cfg: Config, names: set[str]) -> None:
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if type_name(hook) not in names]
