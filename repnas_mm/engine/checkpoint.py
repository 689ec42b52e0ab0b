"""Checkpoints of a model's three forms (search, subnet, deploy) and the configs that go with them."""

import pickle
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ..search.genotype import Genotype
from ..utils.fileio import atomic_write, save_atomic
from ..version import __version__

_SEARCH_HOOKS = {'RepNASHook', 'FuseHook'}


def load_file(path: str | Path) -> dict:
    """Read a checkpoint on the CPU without running any code in it.

    Raises:
        ValueError or FileNotFoundError: one sentence that names the file.
    """
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except OSError as e:
        raise FileNotFoundError(f"Checkpoint '{path}' cannot be read: {e.strerror or e}.") from e
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as e:
        # of torch's page of advice, the line that says what was wrong
        lines = str(e).strip().splitlines() or [type(e).__name__]
        reason = next((line for line in lines if 'WeightsUnpickler error' in line), lines[0]).strip()
        raise ValueError(f"Checkpoint '{path}' is damaged or holds more than weights, and was refused: {reason}") from e
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"Checkpoint '{path}' holds a {type(checkpoint).__name__}, not a dict with 'state_dict'.")
    return checkpoint if 'state_dict' in checkpoint else dict(state_dict=checkpoint)


def build_model(cfg: Config, checkpoint: Mapping) -> nn.Module:
    """The model of ``cfg`` with the weights of a search, subnet or fused checkpoint; every key must fit.

    A subnet checkpoint carries its genotype and a fused one shows its form by its keys, so that the config of the
    search serves for all three.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    state = {key.removeprefix('module.'): value for key, value in checkpoint['state_dict'].items()}
    genotype = checkpoint.get('meta', {}).get('genotype')
    if any(key.endswith('reparam.weight') for key in state):
        cfg = deploy_config(cfg)
    elif genotype is not None:
        cfg = subnet_config(cfg, Genotype.from_dict(genotype))
    model_cfg = deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)  # as the Runner does
    model = MODELS.build(model_cfg)
    try:
        model.load_state_dict(state)
    except RuntimeError as e:
        reason = ' '.join(str(e).split())[:300]
        raise ValueError(f'The checkpoint does not fit the model of the config: {reason}') from e
    return model


def save_model(state_dict: Mapping, path: Path, cfg: Config, **meta) -> None:
    """Write weights as ``path``, and beside it, under the same name, the config that loads them."""
    state = {key: value.detach().cpu() for key, value in state_dict.items()}
    meta.update(cfg=cfg.pretty_text, repnas_mm_version=__version__)
    save_atomic(dict(meta=meta, state_dict=state), path)
    with atomic_write(path.with_suffix('.py')) as f:
        f.write(cfg.pretty_text.encode())


def save_subnet(subnet: nn.Module, path: Path, cfg: Config, genotype: Genotype, **meta) -> None:
    """`save_model` of a subnet; the genotype goes with it, so that the search's config can load it too."""
    save_model(subnet.state_dict(), path, subnet_config(cfg, genotype), genotype=genotype.to_dict(), **meta)


def subnet_config(cfg: Config, genotype: Genotype) -> Config:
    """``cfg`` with every ODBBBackbone built as the subnet of ``genotype``, and without a search."""
    cfg = _edit_backbones(cfg, genotype=genotype.to_dict(), init_cfg=None)
    return _drop_hooks(cfg, {'RepNASHook'})


def deploy_config(cfg: Config) -> Config:
    """``cfg`` with every ODBBBackbone built fused, and without a search or anything left to fuse."""
    return _drop_hooks(_edit_backbones(cfg, deploy=True, genotype=None, init_cfg=None), _SEARCH_HOOKS)


def type_name(cfg: Mapping) -> str:
    """Name of the class that ``cfg`` builds, without scope; '' if it builds none."""
    kind = cfg.get('type', '')
    return kind.__name__ if isinstance(kind, type) else str(kind).split('.')[-1]


def _edit_backbones(cfg: Config, **changes) -> Config:
    """A copy of ``cfg`` with these arguments in every ODBBBackbone; None removes one."""
    cfg = deepcopy(cfg)

    def visit(node):
        if isinstance(node, Mapping):
            if type_name(node) == 'ODBBBackbone':
                for key, value in changes.items():
                    if value is None:
                        node.pop(key, None)
                    else:
                        node[key] = value
            node = list(node.values())
        if isinstance(node, list | tuple):
            for child in node:
                visit(child)

    visit(cfg.model)
    return cfg


def _drop_hooks(cfg: Config, names: set[str]) -> Config:
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in hooks if type_name(hook) not in names]
    return cfg
