"""Whatever would fail when a training ends fails before it begins."""

import errno
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS

from repnas_mm.engine import export
from repnas_mm.models import ODBBlock
from repnas_mm.utils import fileio


@MODELS.register_module()
class NoTensor(ImageClassifier):
    """Trains and validates, and does not know mode='tensor'."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'tensor':
            raise NotImplementedError('only loss and predict')
        return super().forward(inputs, data_samples, mode)


@MODELS.register_module()
class ReadsBlocks(ImageClassifier):
    """Computes something else once its blocks are fused."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        out = super().forward(inputs, data_samples, mode)
        return out if mode != 'tensor' else [o + 10.0 * self.backbone.stem.deploy for o in out]


class Count(Hook):
    iterations = 0

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.iterations += 1


def raises(error):
    def function(*_, **__):
        raise error

    return function


FULL = raises(OSError(errno.ENOSPC, 'No space left on device'))
BROKEN = raises(RuntimeError('broken'))

#: What is wrong -> hooks, how it comes about, and what the message says
FAILURES = {
    'a forward for fusing': ('FuseHook', dict(type='NoTensor'), None, 'FuseHook would fail .* only loss and predict'),
    'a forward for statistics': ('RepNASHook', dict(type='NoTensor'), None, 'RepNASHook would fail .* only loss and'),
    'a difference': ('FuseHook', dict(type='ReadsBlocks'), None, 'FuseHook would fail .* differs from the unfused'),
    'a full disk': ('FuseHook', {}, (fileio.torch, 'save', FULL), r"fused.pth' cannot be written: No space left"),
    'the same for the subnet': ('RepNASHook', {}, (fileio.torch, 'save', FULL), "subnet.pth' cannot be written"),
    'a picture': ('RepNASHook', {}, (export, 'plot_genotype', BROKEN), 'RepNASHook would fail .*: broken'),
    'a config form': ('FuseHook', {}, (Config, 'pretty_text', property(BROKEN)), 'FuseHook would fail .*: broken'),
    'a cut': ('shrink', {}, (ODBBlock, 'absorb', BROKEN), 'RepNASHook would fail .*: broken'),
}


@pytest.mark.parametrize('case', FAILURES)
def test_it_fails_before_training(small_cfg, run, monkeypatch, case):
    hook, model, change, message = FAILURES[case]
    if hook == 'shrink':
        small_cfg.model.backbone.share_weights = False
        small_cfg.custom_hooks[0] = dict(type='RepNASHook', num_branches=10)
        hook = 'RepNASHook'
    small_cfg.model.update(model)
    small_cfg.custom_hooks = [cfg for cfg in small_cfg.custom_hooks if cfg['type'] == hook]
    count = Count()

    class Break(Hook):
        priority = 'VERY_HIGH'

        def before_train(self, runner):  # later than MMEngine's own copy of the config
            if change is not None:
                monkeypatch.setattr(*change)

    with pytest.raises(RuntimeError, match=message):
        run(small_cfg, count, Break())
    assert count.iterations == 0
    assert not list(Path(small_cfg.work_dir).glob('.rehearsal-*'))


def test_a_model_without_tensor_mode_is_searched_where_nothing_needs_it(small_cfg, run):
    small_cfg.model.update(type='NoTensor')
    small_cfg.model.backbone.share_weights = False
    small_cfg.custom_hooks = [dict(type='RepNASHook', num_branches=10)]
    assert (Path(run(small_cfg).work_dir) / 'subnet.pth').exists()


def test_activations_that_no_statistics_hold_yet_are_no_failure(small_cfg, run):
    class Grow(Hook):
        priority = 'VERY_HIGH'

        def before_train(self, runner):
            for norm in runner.model.modules():
                if isinstance(norm, torch.nn.BatchNorm2d):
                    norm.running_var.fill_(1e-30)

    runner = run(small_cfg, Grow())
    log = (Path(runner._log_dir) / f'{runner.timestamp}.log').read_text()
    assert 'RepNASHook: rehearsed in' in log and 'FuseHook: rehearsed in' in log
