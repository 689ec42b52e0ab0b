"""What tests of several parts share: a search small enough to run a whole training in a second."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from repnas_mm.utils.cli import set_loader_defaults

ROOT = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)


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


@pytest.fixture
def small_cfg(tmp_path):
    """configs/odbb_digits.py with 4 blocks of 25 candidates, 3 iterations an epoch, 6 epochs: 2 of each phase."""
    cfg = Config.fromfile(ROOT / 'configs' / 'odbb_digits.py')
    set_loader_defaults(cfg)
    cfg.model.backbone.arch = dict(num_blocks=[1, 1, 1], width_factor=[1, 1, 1], strides=[1, 2, 2])
    cfg.model.backbone.base_channels = 4
    cfg.model.head.in_channels = 16
    for loader, indices in ((cfg.train_dataloader, 48), (cfg.val_dataloader, 20), (cfg.test_dataloader, 20)):
        loader.batch_size = 16
        loader.dataset.indices = indices
    cfg.train_cfg = dict(by_epoch=True, max_epochs=6, val_interval=2)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    cfg.default_hooks.logger.interval = 3
    cfg.custom_hooks[0].update(num_branches=10, warmup=2, frozen=2)
    cfg.work_dir = str(tmp_path / 'run')
    return cfg


@pytest.fixture
def by_iter():
    """Turns a config into one of an iter-based loop of 18 iterations, 6 of each phase, saved every 2."""

    def convert(cfg):
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=18, val_interval=4)
        cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
        cfg.param_scheduler = dict(type='CosineAnnealingLR', T_max=18, by_epoch=False)
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=2, by_epoch=False)
        cfg.log_processor = dict(by_epoch=False)
        cfg.custom_hooks[0].update(warmup=6, frozen=6)
        return cfg

    return convert


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
        return runner

    return train
