"""Batches of the training's data, past its loader and preprocessed as it does, without a trace in the training."""

from collections.abc import Sequence
from contextlib import suppress
from copy import copy, deepcopy
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset

from .rng import preserved
from .worker_seeds import collate_function


def batch_size_of(loader: DataLoader) -> int:
    """Images in a batch; a loader with a batch sampler, mmdet's default, has no size of its own."""
    return loader.batch_size or getattr(loader.batch_sampler, 'batch_size', 1)


def batches_of(loader: DataLoader, indices: Sequence[int], size: int) -> DataLoader:
    """Batches of these images of the loader's data set.

    Workers are the loader's in number, but others: its own go on where they are, and so do transforms with a memory.
    """
    workers = min(loader.num_workers, -(-len(indices) // size))
    return DataLoader(
        loader.dataset if workers else _with_other_transforms(loader.dataset),
        size,
        sampler=indices,
        num_workers=workers,
        collate_fn=collate_function(loader),
        multiprocessing_context=loader.multiprocessing_context if workers else None,
    )


def first_batch(loader: DataLoader, most: int = 8) -> Any:
    """A batch of the first images; random states stay as they are."""
    size = min(most, batch_size_of(loader), len(loader.dataset))
    with preserved():
        return next(iter(batches_of(loader, range(size), size)))


def training_inputs(model: nn.Module, batch: Any) -> Any:
    """Preprocess a batch as ``model`` does in training: padded, stacked and augmented as only training does.

    The batch, the preprocessor, which may have a memory, and random states stay as they are, so that the same call
    gives the same inputs. A preprocessor may wait for all ranks.
    """
    with preserved():
        return deepcopy(model.data_preprocessor)(deepcopy(batch), True)


def _with_other_transforms(dataset: Dataset) -> Dataset:
    """A copy of a data set, and of those inside it, that shares all but the transforms."""
    dataset = copy(dataset)
    for name, value in vars(dataset).items():
        if name == 'pipeline':
            with suppress(TypeError):  # one that holds an open file is shared
                vars(dataset)[name] = deepcopy(value)
        elif isinstance(value, Dataset):
            vars(dataset)[name] = _with_other_transforms(value)
        elif isinstance(value, list) and value and isinstance(value[0], Dataset):
            vars(dataset)[name] = [_with_other_transforms(inner) for inner in value]
    return dataset
