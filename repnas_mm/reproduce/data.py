"""Where the data of a preset is, and how its configs are told."""

import gzip
import shutil
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..utils.fileio import atomic_write
from .presets import PRESETS, Preset


def find_data(preset: Preset, data_root: str | None, unpack_to: Path) -> str | None:
    """The folder with the files of ``preset``, or None if it needs none.

    Args:
        data_root: Where the user has it, if not where the configs expect it.
        unpack_to: If all files are there as ``.gz``, they are unpacked into this folder, and that is returned: the
            stock data sets read no compressed files.

    Raises:
        FileNotFoundError: one sentence that says what is missing and how to get it.
    """
    if not preset.files:
        return None
    root = Path(data_root or preset.data_root)
    missing = [name for name in preset.files if not (root / name).exists()]
    if not missing:
        if preset.pretrained_on:
            _check_pretraining(preset)
        return str(root)
    if all((root / f'{name}.gz').exists() for name in preset.files):
        unpack_to.mkdir(parents=True, exist_ok=True)
        for name in preset.files:
            if not (unpack_to / name).exists():
                with gzip.open(root / f'{name}.gz') as packed, atomic_write(unpack_to / name) as file:
                    shutil.copyfileobj(packed, file)
        return str(unpack_to)
    raise FileNotFoundError(
        f"Preset '{preset.name}' needs '{root / missing[0]}': {preset.get_data}; another place is told by --data-root."
    )


def _check_pretraining(preset: Preset) -> None:
    """The data of the backbones must be where the configs expect it; ``--data-root`` tells where the detectors' is."""
    data = PRESETS[preset.pretrained_on]
    for path in (Path(data.data_root) / name for name in data.files):
        if not path.exists():
            raise FileNotFoundError(
                f"Preset '{preset.name}' needs '{path}' too, for its backbones: {data.get_data}, or link them."
            )


def place_data(cfg: Config, data_root: str) -> None:
    """Make all loaders and evaluators of ``cfg`` read from ``data_root``."""
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        while 'data_root' not in dataset:  # RepeatDataset and the like
            dataset = dataset.dataset
        old, dataset.data_root = dataset.data_root, data_root
        evaluator = cfg.get(f'{split}_evaluator')
        if isinstance(evaluator, ConfigDict) and str(evaluator.get('ann_file', '')).startswith(old):
            evaluator.ann_file = str(Path(data_root) / evaluator.ann_file[len(old) :].lstrip('/'))
