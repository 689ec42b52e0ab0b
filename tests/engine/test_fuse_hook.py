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
    plain_training.update(custom_hooks=[dict(type='SafeLoadHook')], experiment_name='test_unfused')
    assert fused == Runner.from_cfg(plain_training).test()


@pytest.mark.parametrize('update_buffers', [False, True])
def test_with_ema_the_average_is_fused_and_tested(small_cfg, run, update_buffers):
    small_cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.3, update_buffers=update_buffers))
    runner = run(small_cfg)
    folder = Path(runner.work_dir)
    subnet, fused = (build_model(small_cfg, load_file(folder / name)) for name in ('subnet.pth', 'fused.pth'))
    images = torch.randn(4, 1, 16, 16)
    assert fusing.max_difference(fusing.raw_output(subnet, images), fusing.raw_output(fused, images)) < 1e-5
    small_cfg.update(load_from=str(folder / 'epoch_6.pth'), experiment_name=f'test_ema_{update_buffers}')
    tester, watch = Runner.from_cfg(small_cfg), OutputInTest(images)
    tester.register_hook(watch)
    tester.test()
    assert fusing.max_difference(fusing.raw_output(fused, images), watch.output) < 1e-6
    # the average was swapped in for the test, and out again
    average = next(hook.ema_model.module for hook in tester.hooks if isinstance(hook, EMAHook))
    saved = load_file(folder / 'epoch_6.pth')['state_dict']
    assert all(torch.equal(p, saved[name]) for name, p in average.named_parameters())


class OutputInTest(Hook):
    """Notes what the model in memory computes while it is tested."""

    priority = 100

    def __init__(self, images):
        self.images = images

    def before_test_iter(self, runner, batch_idx, data_batch=None):
        self.output = fusing.raw_output(runner.model, self.images)


@pytest.mark.parametrize('ema', [False, True])
def test_testing_leaves_the_model_as_it_was(small_cfg, run, ema):
    if ema:
        small_cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.3))
    runner = run(small_cfg)
    model, before = runner.model, [(p, p.detach().clone()) for p in runner.model.parameters()]
    metrics = runner.test()
    assert runner.model is model and not fusing.is_fused(model)
    after = [*model.parameters()]
    assert all(p is old and torch.equal(p, value) for p, (old, value) in zip(after, before, strict=True))
    assert runner.test() == metrics


def test_a_test_between_two_trainings_changes_nothing(plain_training, run):
    weights = []
    for tested in (False, True):
        plain_training.work_dir += '_'
        runner = run(plain_training)
        if tested:
            runner.test()
        torch.manual_seed(0)
        runner.train_loop._max_epochs += 1
        runner.train()
        assert runner.epoch == 3
        weights.append(runner.model.state_dict())
    first, second = weights
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_test_that_fails_leaves_its_fused_copy_to_the_next_run_to_take_away(plain_training, run):
    class Fail(Hook):
        def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            raise KeyboardInterrupt

    runner = run(plain_training)
    model = runner.model
    runner.register_hook(Fail())
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            runner.test()
        assert runner.model is not model
    runner.train_loop._max_epochs += 1
    runner.train()
    assert runner.model is model


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


def test_a_model_without_blocks_is_not_fused_and_cannot_be():
    assert not fusing.is_fused(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match='Linear has no ODBB block to fuse'):
        fusing.fuse_model(torch.nn.Linear(2, 2))


def test_blocks_outside_a_backbone_are_found():
    from repnas_mm.models import ODBBlock

    head = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 1), torch.nn.Sequential(ODBBlock(4, 4)))
    assert list(find_blocks(head)) == ['1.0']
    fusing.fuse_model(head)
    assert fusing.is_fused(head)
