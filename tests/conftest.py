"""What tests of several parts share: a search small enough to run a whole training in a second."""

import gc
from copy import deepcopy
from functools import cache

import mmengine.config.config
import mmengine.config.utils
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from small_search import in_iterations, small_search
from yapf.yapflib import yapf_api

from repnas_mm.engine import export, search_log

torch.set_num_threads(1)

# Half the time of a small training is yapf, which makes a config's text pretty for every log and checkpoint; the plain
# text loads as well. Scripts that tests start in processes of their own still do it.
yapf_api.FormatCode = mmengine.config.config.FormatCode = lambda text, **options: (text, True)

# Most of the other half is matplotlib: no pictures of α in each epoch, and none that a rehearsal throws away.
_save_figure = export.save_figure
export.save_figure = lambda figure, path: None if '.rehearsal-' in str(path) else _save_figure(figure, path)
search_log.plot_alpha = lambda *_: np.zeros((2, 2, 3), dtype=np.uint8)

# MMEngine reads all metafiles of a package anew for every config that inherits from a stock one.
mmengine.config.utils.load = cache(mmengine.config.utils.load)


def pytest_collection_finish():
    """Keep what was imported out of garbage collection: each data set of MMEngine starts one, of half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_scope_left_behind():
    """A test that builds a detector leaves mmdet's scope to the next, as a runner does."""
    yield
    DefaultScope._instance_dict.clear()


class Stop(Exception):
    """Raised to interrupt a training from outside, as a killed process would end."""


class StopAfter(Hook):
    """Ends the training after so many iterations, when everything else of that iteration or epoch is done."""

    priority = 100

    def __init__(self, iterations: int):
        self.iterations = iterations

    def _stop(self, runner):
        if runner.iter + 1 >= self.iterations:
            raise Stop

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if (batch_idx + 1) % len(runner.train_dataloader) or 'max_iters' in runner.cfg.train_cfg:
            self._stop(runner)

    def after_train_epoch(self, runner):
        self._stop(runner)


def stop_workers(loader) -> None:
    """Else the garbage collector takes the queues first, over which torch waits five seconds for each worker."""
    if loader._iterator is not None:  # persistent workers
        loader._iterator._shutdown_workers()
        loader._iterator = None


@pytest.fixture
def small_cfg(tmp_path):
    """`small_search`, in a folder of the test's own."""
    return small_search(tmp_path / 'run')


@pytest.fixture
def by_iter():
    """`in_iterations`"""
    return in_iterations


@pytest.fixture
def run():
    """Trains a config with a stock Runner; keyword arguments: extra hooks, stop_after iterations, resume."""
    count = iter(range(1000))

    def train(cfg, *hooks, stop_after=None, resume=False):
        cfg = deepcopy(cfg)
        cfg.experiment_name = f'test_{cfg.work_dir}_{next(count)}'
        cfg.resume = resume
        runner = Runner.from_cfg(cfg)
        for hook in hooks:
            runner.register_hook(hook)
        if stop_after is None:
            runner.train()
        else:
            runner.register_hook(StopAfter(stop_after))
            with pytest.raises(Stop):
                runner.train()
        stop_workers(runner.train_dataloader)
        return runner

    return train
