"""The data of a scale: finding it, and telling configs where it is."""

import gzip
import shutil
from pathlib import Path

from mmengine.config import Config, ConfigDict

from repnas_mm.utils.fileio import atomic_write

from .scales import SCALES, Scale


def find_data(scale: Scale, data_root: str | None, unpack_to: Path) -> str | None:
    """Find the folder with the files of ``scale``, or None if it needs none.

    Args:
        data_root: Where the user has it, if not where the configs expect it.
        unpack_to: If all files are there as ``.gz``, they are unpacked into this folder, and that is returned: the
            stock data sets read no compressed files.

    Raises:
        FileNotFoundError: one sentence that says what is missing and how to get it.
    """
    if not scale.files:
        return None
    root = Path(data_root or scale.data_root)
    missing = [name for name in scale.files if not (root / name).exists()]
    if not missing:
        if scale.pretrained_on:
            _check_pretraining(scale)
        return str(root)
    if all((root / f'{name}.gz').exists() for name in scale.files):
        unpack_to.mkdir(parents=True, exist_ok=True)
        for name in scale.files:
            if not (unpack_to / name).exists():
                with gzip.open(root / f'{name}.gz') as packed, atomic_write(unpack_to / name) as file:
                    shutil.copyfileobj(packed, file)
        return str(unpack_to)
    raise FileNotFoundError(
        f"Scale '{scale.name}' needs '{root / missing[0]}': {scale.get_data}; another place is told by --data-root."
    )


def _check_pretraining(scale: Scale) -> None:
    """Check that the data of the backbones is where the configs expect it; ``--data-root`` is the detectors'."""
    data = SCALES[scale.pretrained_on]
    for path in (Path(data.data_root) / name for name in data.files):
        if not path.exists():
            raise FileNotFoundError(
                f"Scale '{scale.name}' needs '{path}' too, for its backbones: {data.get_data}, or link them."
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
