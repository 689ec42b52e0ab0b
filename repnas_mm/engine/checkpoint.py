"""Checkpoints of a model's three forms (search, subnet, deploy) and the configs that go with them."""

import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from ..checks import reason, refusing, shown
from ..models.convert import leave_shared_plain
from ..search.genotype import Genotype
from ..utils.fileio import atomic_write, save_atomic
from ..version import __version__
from .safe_globals import allow_history_buffer

_SEARCH_HOOKS = {'RepNASHook', 'FuseHook'}

#: What reading an archive and the pickle in it raises for bytes that nobody wrote.
UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def load_file(path: str | Path) -> Mapping[str, Any]:
    """Read a checkpoint on the CPU without running any code in it.

    Raises:
        ValueError or FileNotFoundError: one sentence that names the file.
    """
    allow_history_buffer()  # again: the forks' mmengine takes back, after each load, what it allows itself
    try:
        check_sums(path)
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except OSError as e:
        raise FileNotFoundError(f"Checkpoint '{path}' cannot be read: {e.strerror or reason(e)}.") from e
    except UNREADABLE as e:
        # of torch's page of advice, the sentence that says what was wrong
        lines = str(e).strip().splitlines() or [type(e).__name__]
        line = next((line for line in lines if 'WeightsUnpickler error' in line), lines[0])
        why = line.strip().split('. ')[0].rstrip('.')
        raise ValueError(f"Checkpoint '{path}' is damaged or holds more than weights, and was refused: {why}.") from e
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"Checkpoint '{path}' holds a {type(checkpoint).__name__}, not a dict with 'state_dict'.")
    return checkpoint if 'state_dict' in checkpoint else dict(state_dict=checkpoint)


def check_sums(path: str | Path) -> None:
    """Raise ValueError if a file inside the archive is not what was written: torch.load does not compare checksums."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # of what is marked as a folder (bit 4), torch reads nothing and takes whatever is in memory
            folders = (info.filename for info in archive.infolist() if info.external_attr & 0x10)
            if damaged := next(folders, None) or archive.testzip():
                raise ValueError(f'the checksum of {shown(damaged)} in it is wrong')


def build_model(cfg: Config, checkpoint: Mapping) -> nn.Module:
    """The model of ``cfg`` with the weights of a search, subnet or fused checkpoint; every key must fit.

    A subnet checkpoint carries its genotype and a fused one shows its form by its keys, so that the config of the
    search serves for all three.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    state, meta = _read_state(checkpoint), checkpoint.get('meta', {})
    if not isinstance(meta, Mapping):
        raise ValueError(f"The checkpoint's 'meta' is a {type(meta).__name__}, not a dict.")
    if 'new_biases' in meta:
        cfg = deploy_config(cfg, meta['new_biases'])
    elif any(key.endswith('reparam.weight') for key in state):
        cfg = deploy_config(cfg)
    elif meta.get('genotype') is not None:
        with refusing("The genotype in the checkpoint's 'meta' is not valid"):
            genotype = Genotype.from_dict(meta['genotype'])
        cfg = subnet_config(cfg, genotype)
    model_cfg = deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)  # as the Runner does
    model = MODELS.build(model_cfg)
    leave_shared_plain(model)
    _check_kinds(state, model.state_dict())
    with refusing('The checkpoint does not fit the model of the config'):
        model.load_state_dict(state)
    return model


def _read_state(checkpoint: Mapping) -> dict[str, Tensor]:
    """The weights of a checkpoint, without the prefix of DistributedDataParallel.

    Raises:
        ValueError: naming the first entry with which no model could compute.
    """
    state = checkpoint['state_dict']
    if not isinstance(state, Mapping):
        raise ValueError(f"The checkpoint's 'state_dict' is a {type(state).__name__}, not a dict of tensors.")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"The checkpoint's weights {shown(name)} are a {type(value).__name__}, not a tensor.")
        if not value.isfinite().all():
            raise ValueError(
                f"The checkpoint's {shown(name)} holds NaN or Inf; use one that was saved before the training diverged."
            )
        if name.endswith('running_var') and value.is_floating_point() and (value < 0).any():
            raise ValueError(f"The checkpoint's {shown(name)} holds a negative variance; the file is damaged.")
    return {name.removeprefix('module.'): value for name, value in state.items()}


def _check_kinds(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise ValueError where one has real numbers and the other has not, which loading would round or cut off."""
    for name in state.keys() & own.keys():
        if state[name].is_floating_point() != own[name].is_floating_point():
            raise ValueError(
                f"The checkpoint's {shown(name)} holds {state[name].dtype}, the model's {own[name].dtype}; the file is "
                'not one that this model has written.'
            )


def run_meta(runner) -> dict:
    """What a checkpoint's ``meta`` says of the run; inferencers take the names of the classes from it."""
    return dict(
        epoch=runner.epoch, iter=runner.iter, dataset_meta=getattr(runner.train_dataloader.dataset, 'metainfo', {})
    )


def source_meta(checkpoint: Mapping) -> dict:
    """The part of `run_meta` in a checkpoint, for one made from it."""
    meta = checkpoint.get('meta', {})
    return {key: meta[key] for key in ('epoch', 'iter', 'dataset_meta') if key in meta}


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


def save_fused(fused: nn.Module, path: Path, cfg: Config, new_biases: Sequence[str], **meta) -> None:
    """`save_model` of a fused model; ``new_biases`` as in `deploy_config`."""
    save_model(fused.state_dict(), path, deploy_config(cfg, new_biases), new_biases=list(new_biases), **meta)


def subnet_config(cfg: Config, genotype: Genotype) -> Config:
    """``cfg`` with every ODBBBackbone built as the subnet of ``genotype``, and without a search.

    An ODBBConv2d of a ``conv_cfg`` needs no change: it takes its branches from the subnet's checkpoint.
    """
    cfg = deepcopy(cfg)

    def edit(node):
        if type_name(node) == 'ODBBBackbone':
            (node.base if 'base' in node else node).pop('init_cfg', None)
            node.genotype = genotype.to_dict()
        return node

    cfg.model = _map_dicts(cfg.model, edit)
    return _without_run(cfg, {'RepNASHook'})


def deploy_config(cfg: Config, new_biases: Sequence[str] = ()) -> Config:
    """``cfg`` of the fused network, without a search or anything left to fuse.

    Blocks that stand in for ordinary convolutions leave the stock model behind, unless some of them had to keep a bias
    that the stock model has no place for; the config then says so, by ``deploy=True``.

    Args:
        cfg: Config of the search or the subnet.
        new_biases: Names of the convolutions with such a bias.
    """
    cfg = deepcopy(cfg)

    def edit(node):
        kind = type_name(node)
        if kind == 'ODBBConv2d':
            return ConfigDict(type=node.type, deploy=True) if new_biases else None
        if kind == 'ODBBBackbone':
            base = node.get('base')
            (base or node).pop('init_cfg', None)
            if base and not new_biases:
                return base
            node.pop('genotype', None)
            node.deploy = True
        return node

    cfg.model = _map_dicts(cfg.model, edit)
    if 'ODBB' not in str(cfg.model) and 'custom_imports' in cfg:
        # the stock model, which needs this package no longer
        cfg.custom_imports.imports = [name for name in cfg.custom_imports.imports if name != 'repnas_mm']
    return _without_run(cfg, _SEARCH_HOOKS)


def type_name(cfg: Mapping) -> str:
    """Name of the class that ``cfg`` builds, without scope; '' if it builds none."""
    kind = cfg.get('type', '')
    return kind.__name__ if isinstance(kind, type) else str(kind).split('.')[-1]


def _map_dicts(node, edit: Callable[[ConfigDict], ConfigDict | None]):
    """``node`` with every dict in it replaced by what ``edit`` makes of it; one of which it makes None is left out."""
    if isinstance(node, Mapping):
        node = edit(node)
        if node is not None:
            for key, value in list(node.items()):
                node[key] = _map_dicts(value, edit)
                if node[key] is None and value is not None:
                    del node[key]
    elif isinstance(node, list | tuple):
        node = type(node)(_map_dicts(child, edit) for child in node)
    return node


def _without_run(cfg: Config, names: set[str]) -> Config:
    """Drop these hooks, and what the run started from: a stock tool would resume from it."""
    cfg.resume, cfg.load_from = False, None
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in hooks if type_name(hook) not in names]
    return cfg
