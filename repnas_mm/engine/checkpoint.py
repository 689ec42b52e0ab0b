"""Checkpoints of a model's three forms (search, subnet, deploy), read and written."""

import zipfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from ..checks import error_text, explain_errors, quote
from ..search.block import find_blocks
from ..search.genotype import Genotype
from ..utils.fileio import atomic_write, save_atomic
from ..version import __version__
from .form_configs import deploy_config, subnet_config
from .log_history import log_history_allowed
from .plain import plain


def load_file(path: str | Path) -> Mapping[str, Any]:
    """Read a checkpoint on the CPU without running any code in it.

    Returns:
        A dict with the key ``state_dict``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one sentence that names the file and what is wrong with it.
    """
    try:
        if damaged := find_damage(path):
            raise ValueError(f'the checksum of {quote(damaged)} in it is wrong')
        with log_history_allowed():
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except OSError as e:
        raise FileNotFoundError(f"Checkpoint '{path}' cannot be read: {e.strerror or error_text(e)}.") from e
    except Exception as e:  # bytes that nobody wrote raise almost anything
        # of torch's page of advice, the sentence that says what was wrong
        text = str(e).partition('WeightsUnpickler error:')[2].strip() or str(e).strip() or type(e).__name__
        why = text.splitlines()[0].split('. ')[0].rstrip('.')
        raise ValueError(f"Checkpoint '{path}' is damaged or holds more than weights, and was refused: {why}.") from e
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"Checkpoint '{path}' holds a {type(checkpoint).__name__}, not a dict with 'state_dict'.")
    return checkpoint if 'state_dict' in checkpoint else dict(state_dict=checkpoint)


def find_damage(path: str | Path) -> str | None:
    """Name of the first file inside a checkpoint that is not what was written; torch.load compares no checksums."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        # of what is marked as a folder (bit 4), torch reads nothing and takes whatever is in memory
        folders = (info.filename for info in archive.infolist() if info.external_attr & 0x10)
        return next(folders, None) or archive.testzip()


def build_model(cfg: Config, checkpoint: Mapping) -> nn.Module:
    """Build the model of ``cfg`` with the weights of a search, subnet or fused checkpoint; every key must fit.

    A subnet checkpoint carries its genotype and a fused one shows its form by its keys, so that the config of the
    search serves for all three.
    """
    scope = cfg.get('default_scope', 'mmengine')
    if scope is not None:  # as in pure-Python configs; a Runner sets none then either
        init_default_scope(scope)
    state, meta = _read_state(checkpoint), checkpoint.get('meta', {})
    if 'new_biases' in meta:
        cfg = deploy_config(cfg, meta['new_biases'])
    elif any(key.endswith('reparam.weight') for key in state):
        cfg = deploy_config(cfg)
    elif meta.get('genotype') is not None:
        with explain_errors("The genotype in the checkpoint's 'meta' is not valid"):
            genotype = Genotype.from_dict(meta['genotype'])
        cfg = subnet_config(cfg, genotype)
    model_cfg = deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)  # as the Runner does
    model = MODELS.build(model_cfg)
    find_blocks(model)  # so that convolutions which the search left plain are plain
    with explain_errors('The checkpoint does not fit the model of the config'):
        model.load_state_dict(state)
    return model


def _read_state(checkpoint: Mapping) -> dict[str, Tensor]:
    """Read the weights of a checkpoint, without the prefix of DistributedDataParallel.

    Raises:
        ValueError: naming the first entry with which no model could compute.
    """
    state = checkpoint['state_dict']
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"The checkpoint's weights {quote(name)} are a {type(value).__name__}, not a tensor.")
        if not value.isfinite().all():
            raise ValueError(
                f"The checkpoint's {quote(name)} holds NaN or Inf; use one that was saved before the training diverged."
            )
    return {name.removeprefix('module.'): value for name, value in state.items()}


def run_meta(runner) -> dict:
    """Describe the run for a checkpoint's ``meta``; inferencers take the names of the classes from it."""
    return dict(
        epoch=runner.epoch, iter=runner.iter, dataset_meta=getattr(runner.train_dataloader.dataset, 'metainfo', {})
    )


def source_meta(checkpoint: Mapping) -> dict:
    """Read what `run_meta` wrote into a checkpoint, for one made from it."""
    meta = checkpoint.get('meta', {})
    return {key: meta[key] for key in ('epoch', 'iter', 'dataset_meta') if key in meta}


def save_model(state_dict: Mapping, path: Path, cfg: Config, **meta) -> None:
    """Write weights as ``path``, and beside it, under the same name, the config that loads them."""
    state = {key: value.detach().cpu() for key, value in state_dict.items()}
    text = cfg.pretty_text  # takes as long as several training steps where it has a genotype
    meta.update(cfg=text, repnas_mm_version=__version__)
    save_atomic(dict(meta=plain(meta), state_dict=state), path)
    with atomic_write(path.with_suffix('.py')) as f:
        f.write(text.encode())


def save_subnet(subnet: nn.Module, path: Path, cfg: Config, genotype: Genotype, **meta) -> None:
    """Save a subnet by `save_model`; the genotype goes with it, so that the search's config can load it too."""
    save_model(subnet.state_dict(), path, subnet_config(cfg, genotype), genotype=genotype.to_dict(), **meta)


def save_fused(fused: nn.Module, path: Path, cfg: Config, new_biases: Sequence[str], **meta) -> None:
    """Save a fused model by `save_model`; ``new_biases`` as in `deploy_config`."""
    save_model(fused.state_dict(), path, deploy_config(cfg, new_biases), new_biases=list(new_biases), **meta)
