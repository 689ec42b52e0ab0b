"""A hook that lets something go wrong at a moment of a training, for `faults.py`."""

import multiprocessing
import os
import resource
import signal

import torch
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from repnas_mm.utils import fileio


def full_disk(runner, batch) -> None:
    """Files end after 1 kB from now on, as on a disk with as much left."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


def read_only(runner, batch) -> None:
    """The work dir is gone over to read-only; means nothing to root."""
    os.chmod(runner.work_dir, 0o500)


def killed_writer(runner, batch) -> None:
    """The next checkpoint is half written when the process dies."""

    def put(self, content, path):
        with open(path, 'wb') as f:
            f.write(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    LocalBackend.put = put


def dead_worker(runner, batch) -> None:
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


def nan_batch(runner, batch) -> None:
    batch['inputs'] = torch.full_like(batch['inputs'], float('nan'), dtype=torch.float32)


def sigterm(runner, batch) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def sigint(runner, batch) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    os.kill(os.getpid(), signal.SIGINT)


@HOOKS.register_module()
class Fault(Hook):
    """Calls ``what`` before iteration ``at``; or, without that, in front of the ``file``-th renaming of the export."""

    priority = 'HIGHEST'

    def __init__(self, what: str, at: int | None = None, file: int = 0):
        self.what, self.at, self.file = globals()[what], at, file

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            self.what(runner, data_batch)

    def after_train(self, runner):
        if self.at is not None:
            return
        replace, count = os.replace, iter(range(1000))

        def fail(*args):
            if next(count) == self.file:
                self.what(runner, None)
            replace(*args)

        fileio.os.replace = fail
