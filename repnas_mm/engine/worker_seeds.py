"""Random numbers of persistent data workers that depend on the epoch, not on when the workers were started."""

import random
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info


def seed_every_batch(loader: DataLoader, seed: int, rank: int, epoch: int) -> None:
    """Let persistent workers seed themselves anew for each batch; others are left alone.

    MMEngine seeds workers when they start. Persistent ones then draw on from epoch to epoch, so that a resumed run,
    which starts its own, would augment the images otherwise than a run that was never stopped.

    Args:
        loader: Not iterated yet.
        seed: Of the run.
        rank: Of this process.
        epoch: That the loader begins with.
    """
    if loader.num_workers > 0 and loader.persistent_workers:
        collate = _SeedingCollate(loader.collate_fn, (seed, rank), epoch, len(loader))
        loader.collate_fn = collate
        loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn, collate)


def collate_function(loader: DataLoader):
    """The loader's own collate function, without what `seed_every_batch` has put around it."""
    collate = loader.collate_fn
    return collate.collate if isinstance(collate, _SeedingCollate) else collate


class _SeedingCollate:
    """Collates, and in a worker seeds for the batch that comes next."""

    def __init__(self, collate, key: tuple[int, int], epoch: int, length: int):
        self.collate, self.key, self.epoch, self.length = collate, key, epoch, length

    def start(self, worker_id: int) -> None:
        # the batches of an epoch go to the workers in turn
        self.batch = self.epoch * len(range(worker_id, self.length, get_worker_info().num_workers))
        self._seed(worker_id)

    def __call__(self, samples):
        collated = self.collate(samples)
        if (worker := get_worker_info()) is not None:
            self.batch += 1
            self._seed(worker.id)
        return collated

    def _seed(self, worker_id: int) -> None:
        state = np.random.SeedSequence([*self.key, worker_id, self.batch]).generate_state(3)
        random.seed(int(state[0]))
        np.random.seed(state[1])
        torch.manual_seed(int(state[2]))


def _start_worker(init, collate: _SeedingCollate, worker_id: int) -> None:
    if init is not None:
        init(worker_id)
    collate.start(worker_id)
