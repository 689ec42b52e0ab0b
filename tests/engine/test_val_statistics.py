"""RepNASHook's validation in a search: BN statistics of what is validated, of which nothing stays."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import MODELS, TRANSFORMS
from torch.nn.modules.batchnorm import _BatchNorm

from repnas_mm.engine import RepNASHook, val_statistics
from repnas_mm.models import fast
from repnas_mm.search import find_blocks


def hook_of(runner) -> RepNASHook:
    return next(hook for hook in runner.hooks if isinstance(hook, RepNASHook))


def norms_of(model) -> dict[str, _BatchNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


def statistics_of(model) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in norms_of(model).items()}


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def by_hand(cfg, runner) -> tuple[torch.nn.Module, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """A copy of what is validated, and its BNs' mean and variance over three batches of the 48 training images."""
    model = MODELS.build(cfg.model)
    model.load_state_dict(runner.model.state_dict())
    blocks = find_blocks(model)
    for name, block in find_blocks(runner.model).items():
        blocks[name].set_active(block.active)
    seen = {name: [] for name in norms_of(model)}
    for name, norm in norms_of(model).items():
        norm.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[0].double()))
        norm.reset_running_stats()
        norm.momentum = None  # borders are padded with running statistics
    loader = runner.train_dataloader
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0)).tolist()
    model.train()
    with torch.no_grad(), fast.without('stem', 'strided'):
        for i in range(0, 48, 16):
            batch = loader.collate_fn([loader.dataset[k] for k in order[i : i + 16]])
            model(**model.data_preprocessor(batch, False))
    return model.eval(), {
        name: tuple(torch.stack([f(x) for x in batches]).mean(0).float() for f in (_mean, _var))
        for name, batches in seen.items()
        if batches
    }


def _mean(x):
    return x.mean((0, 2, 3))


def _var(x):
    return x.var((0, 2, 3), unbiased=True)


class CompareByHand(Hook):
    """Compares statistics and scores of each validation with those that are computed by hand."""

    priority = 60

    def __init__(self, cfg):
        self.cfg, self.compared = cfg, 0

    def before_val_epoch(self, runner):
        self.frozen = hook_of(runner)._genotype is not None
        self.model, self.expected = by_hand(self.cfg, runner)
        self.handle = runner.model.backbone.register_forward_pre_hook(lambda *_: self._look(runner.model))

    def _look(self, model):
        self.used = statistics_of(model)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.frozen:
            return
        for name, pair in self.expected.items():
            torch.testing.assert_close(self.used[name], pair, rtol=1e-4, atol=1e-5)
        for name, norm in norms_of(self.model).items():
            norm.running_mean, norm.running_var = self.used[name]
        with torch.no_grad():
            expected = self.model.val_step(data_batch)
        for one, other in zip(outputs, expected):
            torch.testing.assert_close(one.pred_score, other.pred_score, rtol=1e-4, atol=1e-5)
        self.compared += 1

    def after_val_epoch(self, runner, metrics=None):
        self.handle.remove()


EMA = dict(type='EMAHook', momentum=0.2)


@pytest.mark.parametrize('loop', ['epoch', 'iter'])
@pytest.mark.parametrize('ema', [None, EMA, dict(EMA, update_buffers=True)], ids=['raw', 'ema', 'ema of buffers'])
def test_a_validation_has_the_statistics_of_training_batches(small_cfg, by_iter, run, loop, ema):
    cfg = by_iter(small_cfg) if loop == 'iter' else small_cfg
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset.pipeline = [pipeline[0], pipeline[-1]]  # without chance
    if ema:
        cfg.custom_hooks.append(ema)
    compare = CompareByHand(cfg)
    run(cfg, compare)
    # of two batches each: after epochs 2 and 4, at the end of which the genotype is not yet frozen; iterations 4, 8, 12
    assert compare.compared == (6 if loop == 'iter' else 4)


class SameAround(Hook):
    """Compares, bit for bit, all that a training goes on with before and after each validation."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.compared = 0

    def before_val(self, runner):
        self.before = self.state(runner)

    def after_val_epoch(self, runner, metrics=None):
        after = self.state(runner)
        assert equal(self.before, after)
        self.compared += 1

    @staticmethod
    def state(runner):
        models = [runner.model, *(hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook))]
        state = {}
        for i, model in enumerate(models):
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                state |= {f'{i}.{name}': tensor.detach().clone(), f'{i}.{name} at': torch.tensor(tensor.data_ptr())}
                if tensor.grad is not None:
                    state[f'{i}.{name}.grad'] = tensor.grad.clone()
            state |= {f'{i}.{name}.momentum': torch.tensor(norm.momentum) for name, norm in norms_of(model).items()}
        return state | {f'{name}.active': block.active for name, block in find_blocks(runner.model).items()}


@pytest.mark.parametrize('ema', [None, EMA, dict(EMA, update_buffers=True)], ids=['raw', 'ema', 'ema of buffers'])
def test_everything_is_restored_bit_for_bit(small_cfg, by_iter, run, ema):
    cfg = by_iter(small_cfg)
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.train_cfg.val_interval = 3  # also in the middle of an accumulation
    if ema:
        cfg.custom_hooks.append(ema)
    same = SameAround()
    run(cfg, same)
    assert same.compared == 6


@TRANSFORMS.register_module()
class DrawFromAll:
    """Adds noise from all three global generators."""

    def __call__(self, results):
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        return dict(results, img=results['img'] + np.float32(noise))


@pytest.fixture
def by_chance(small_cfg):
    """A training left to chance, in main process and workers, whose validation draws nothing itself."""
    small_cfg.train_dataloader.dataset.pipeline.insert(-1, dict(type='DrawFromAll'))
    small_cfg.model.train_cfg = dict(augments=dict(type='Mixup', alpha=0.5))
    small_cfg.model.head = dict(type='DroppingHead', **{k: v for k, v in small_cfg.model.head.items() if k != 'type'})
    return small_cfg


@MODELS.register_module()
class DroppingHead(MODELS.get('mmpretrain.LinearClsHead')):
    """Drops features by torch's generator."""

    def pre_logits(self, feats):
        return torch.nn.functional.dropout(super().pre_logits(feats), 0.5, self.training)


@pytest.mark.parametrize(('loop', 'workers'), [('epoch', 0), ('iter', 2)])
def test_a_training_ends_as_one_without(by_chance, by_iter, run, tmp_path, loop, workers):
    cfg = by_iter(by_chance) if loop == 'iter' else by_chance
    if workers:
        cfg.train_dataloader.update(num_workers=workers, persistent_workers=True)
    cfg.optim_wrapper.accumulative_counts = 2
    ends = []
    for images, interval in ((1024, 3), (0, 3), (1024, 100)):
        cfg.custom_hooks[0].recalibrate_val = images
        cfg.train_cfg.val_interval = interval
        cfg.work_dir = str(tmp_path / f'{images}-{interval}')
        runner = run(cfg)
        # the choice of what is tested next; python's and numpy's states are drawn from once more
        drawn = torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])
        ends.append(dict(runner.model.state_dict(), drawn=drawn))
    assert all(equal(*pair) for pair in pairwise(ends))


def test_the_random_state_is_left_without_another_hook(by_chance, run, tmp_path):
    by_chance.custom_hooks = by_chance.custom_hooks[:1]
    ends = []
    for images in (1024, 0):
        by_chance.custom_hooks[0].recalibrate_val = images
        by_chance.work_dir = str(tmp_path / str(images))
        ends.append(run(by_chance).model.state_dict())
    assert equal(*ends)


@pytest.fixture
def recalibrated(monkeypatch):
    """How many images each recalibration was given."""
    given, recalibrate = [], val_statistics.recalibrate

    def count(model, loader, num_images):
        given.append(num_images)
        return recalibrate(model, loader, num_images)

    monkeypatch.setattr(val_statistics, 'recalibrate', count)
    return given


@pytest.mark.parametrize(('change', 'times'), [(dict(), 4), (dict(frozen=0), 6), (dict(recalibrate_val=0), 0)])
def test_it_is_for_validations_before_the_genotype_is_frozen(small_cfg, run, recalibrated, change, times):
    small_cfg.custom_hooks[0].update(recalibrate_val=32)
    small_cfg.custom_hooks[0].update(change)
    small_cfg.train_cfg.val_interval = 1
    run(small_cfg)
    assert recalibrated == [32] * times


def test_shrink_has_its_own_statistics_all_along(small_cfg, run, recalibrated):
    small_cfg.model.backbone.share_weights = False
    del small_cfg.custom_hooks[0]['alpha_optimizer']
    small_cfg.custom_hooks[0].update(strategy='shrink', warmup=0)
    run(small_cfg)
    assert recalibrated == []


def test_a_test_uses_what_the_checkpoint_holds(small_cfg, run, recalibrated):
    small_cfg.custom_hooks[0].update(frozen=0)
    small_cfg.custom_hooks.pop(1)  # which fuses
    runner = run(small_cfg, stop_after=3)
    before = statistics_of(runner.model)
    used = []
    runner.model.backbone.register_forward_pre_hook(lambda *_: used.append(statistics_of(runner.model)))
    runner.test()
    assert recalibrated == [] and used
    assert all(torch.equal(torch.cat(before[name]), torch.cat(seen[name])) for seen in used for name in before)


def test_recalibration_computes_in_the_precision_of_the_validation(small_cfg, run):
    small_cfg.val_cfg = dict(fp16=True)
    enabled = {True: set(), False: set()}  # by training mode

    class Look(Hook):
        def before_val(self, runner):
            self.handle = runner.model.backbone.register_forward_hook(
                lambda module, *_: enabled[module.training].add(torch.is_autocast_enabled('cpu'))
            )

        def after_val(self, runner):
            self.handle.remove()

    run(small_cfg, Look())
    assert enabled == {True: {True}, False: {True}}


class Fail(Hook):
    """Lets the first validation raise in one of its places."""

    priority = 60

    def __init__(self, where, error):
        self.where, self.error = where, error

    def before_val(self, runner):
        self.runner, self.before = runner, SameAround.state(runner)
        if self.where == 'training data':
            runner.train_dataloader.collate_fn = self._raise

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if self.where == 'hook':
            self._raise()
        runner.model.head.predict = self._raise

    def _raise(self, *_):
        raise self.error


@pytest.mark.parametrize('where', ['training data', 'forward', 'hook'])
@pytest.mark.parametrize('error', [RuntimeError('by test'), KeyboardInterrupt()], ids=['error', 'interrupt'])
def test_a_validation_that_raises_leaves_the_model_its_own_statistics(small_cfg, run, where, error):
    fail = Fail(where, error)
    with pytest.raises(type(error)):
        run(small_cfg, fail)
    runner = fail.runner
    hook = hook_of(runner)
    if isinstance(error, KeyboardInterrupt):
        hook.before_run(runner)  # as a test of the same runner begins
    after = SameAround.state(runner)
    assert all(torch.equal(v, after[name]) for name, v in fail.before.items() if not name.endswith('.active'))
    hook.before_run(runner)
    assert not runner.model._forward_pre_hooks and not runner.model._forward_hooks


def test_a_small_data_set_still_gives_a_batch(small_cfg, run, recalibrated):
    small_cfg.train_dataloader.dataset.indices = 10  # a batch has 16
    small_cfg.train_dataloader.drop_last = False
    run(small_cfg)
    assert recalibrated == [1024] * 2


def test_it_makes_a_validation_of_a_search_meaningful(small_cfg, run, tmp_path):
    accuracies = []
    for images in (1024, 0):
        small_cfg.train_dataloader.dataset.indices = 480
        small_cfg.val_dataloader.dataset.indices = 320
        small_cfg.custom_hooks[0].update(recalibrate_val=images, num_branches=12, warmup=0, frozen=0)
        small_cfg.work_dir = str(tmp_path / str(images))
        runner = run(small_cfg)
        history = runner.message_hub.get_scalar('val/accuracy/top1')
        accuracies.append(history.mean())
    assert accuracies[0] > accuracies[1] + 20
