"""FuseHook: what is saved and what is tested is one convolution a block, and equals what was trained."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from repnas_mm.engine import fusing
from repnas_mm.engine.checkpoint import build_model, load_file
from repnas_mm.search import find_blocks


@pytest.fixture
def plain_training(small_cfg):
    """A RepVGG network trained without any search."""
    small_cfg.model.backbone.genotype = 'repvgg'
    small_cfg.custom_hooks = [dict(type='FuseHook')]
    small_cfg.train_cfg.max_epochs = 2
    return small_cfg


def test_it_works_without_a_search(plain_training, run):
    folder = Path(run(plain_training).work_dir)
    images = torch.randn(4, 1, 16, 16)
    outputs = [
        fusing.raw_output(build_model(plain_training, load_file(folder / name)), images)
        for name in ('epoch_2.pth', 'fused.pth')
    ]
    assert fusing.max_difference(*outputs) < 1e-5


def test_training_leaves_the_model_in_memory_unfused(plain_training, run):
    runner = run(plain_training)
    assert not fusing.is_fused(runner.model)


def test_the_model_is_fused_before_the_first_test_batch(plain_training, run):
    class Watch(Hook):
        priority = 100

        def before_test_iter(self, runner, batch_idx, data_batch=None):
            self.fused = fusing.is_fused(runner.model)

    folder = Path(run(plain_training).work_dir)
    plain_training.update(load_from=str(folder / 'epoch_2.pth'), experiment_name='test_fused')
    runner, watch = Runner.from_cfg(plain_training), Watch()
    runner.register_hook(watch)
    fused = runner.test()
    assert watch.fused
    plain_training.update(custom_hooks=[], experiment_name='test_unfused')
    assert fused == Runner.from_cfg(plain_training).test()


@pytest.mark.parametrize('update_buffers', [False, True])
def test_with_ema_the_average_is_fused_and_tested(small_cfg, run, update_buffers):
    small_cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.3, update_buffers=update_buffers))
    runner = run(small_cfg)
    folder = Path(runner.work_dir)
    subnet, fused = (build_model(small_cfg, load_file(folder / name)) for name in ('subnet.pth', 'fused.pth'))
    images = torch.randn(4, 1, 16, 16)
    assert fusing.max_difference(fusing.raw_output(subnet, images), fusing.raw_output(fused, images)) < 1e-5
    # testing swaps the two copies back and forth, which needs both to be fused
    small_cfg.update(load_from=str(folder / 'epoch_6.pth'), experiment_name=f'test_ema_{update_buffers}')
    tester, watch = Runner.from_cfg(small_cfg), OutputInTest(images)
    tester.register_hook(watch)
    tester.test()
    assert fusing.max_difference(fusing.raw_output(fused, images), watch.output) < 1e-6
    average = next(hook.ema_model.module for hook in tester.hooks if isinstance(hook, EMAHook))
    assert [p.shape for p in average.parameters()] == [p.shape for p in tester.model.parameters()]


class OutputInTest(Hook):
    """Notes what the model in memory computes while it is tested."""

    priority = 100

    def __init__(self, images):
        self.images = images

    def before_test_iter(self, runner, batch_idx, data_batch=None):
        self.output = fusing.raw_output(runner.model, self.images)


def test_testing_after_training_in_one_process(small_cfg, run):
    runner = run(small_cfg)
    metrics = runner.test()
    assert fusing.is_fused(runner.model)
    assert runner.test() == metrics


def test_a_fused_model_that_differs_is_refused_and_not_saved(plain_training, run, monkeypatch):
    monkeypatch.setattr(fusing, 'TOLERANCE', -1.0)
    with pytest.raises(RuntimeError, match='The fused model differs from the unfused one by'):
        run(plain_training)
    assert not (Path(plain_training.work_dir) / 'fused.pth').exists()
    assert (Path(plain_training.work_dir) / 'epoch_2.pth').exists()


def test_not_a_number_counts_as_different():
    good, bad = torch.ones(3), torch.tensor([1.0, float('nan'), 1.0])
    assert not fusing.max_difference([good], [bad]) <= fusing.TOLERANCE
    assert not fusing.max_difference([bad], [good]) <= fusing.TOLERANCE


def test_a_fused_model_is_trained_on_as_it_is(plain_training, run):
    plain_training.model.backbone.update(deploy=True)
    folder = Path(run(plain_training).work_dir)
    assert not (folder / 'fused.pth').exists()


def test_a_model_without_blocks_cannot_be_fused():
    with pytest.raises(ValueError, match='Linear has no ODBB block to fuse'):
        fusing.fuse_model(torch.nn.Linear(2, 2))


def test_blocks_outside_a_backbone_are_found():
    from repnas_mm.models import ODBBlock

    head = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 1), torch.nn.Sequential(ODBBlock(4, 4)))
    assert list(find_blocks(head)) == ['1.0']
    fusing.fuse_model(head)
    assert fusing.is_fused(head)
