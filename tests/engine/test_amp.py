"""Mixed precision with MMEngine's own AmpOptimWrapper and torch's own scaler, which here run on the CPU as well."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import OPTIM_WRAPPERS

from repnas_mm.search import find_blocks

ON_GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not ON_GPU, reason='autocast to float16 needs a GPU')


@OPTIM_WRAPPERS.register_module()
class AnyDeviceAmp(AmpOptimWrapper):
    """AmpOptimWrapper, which refuses to be built without an accelerator, with a scale that first overflows."""

    def __init__(self, **kwargs):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
            super().__init__(**kwargs)
        self.loss_scaler = torch.amp.GradScaler('cuda' if ON_GPU else 'cpu', init_scale=2.0**127, growth_interval=2)


class Watch(Hook):
    """What changed in an iteration, and under which scale."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.rows = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before = self.state(runner.model)
        self.scale = runner.optim_wrapper.loss_scaler.get_scale()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        weights, alpha = (a != b for a, b in zip(self.before, self.state(runner.model)))
        skipped = runner.optim_wrapper.loss_scaler.get_scale() < self.scale
        self.rows.append((bool(weights.any()), bool(alpha.any()), skipped))

    @staticmethod
    def state(model):
        blocks = find_blocks(model).values()
        weights = (b.weight if b.share_weights else b.branches['kxk'].weight for b in blocks)
        return [
            torch.cat([value.detach().clone().flatten() for value in values])
            for values in (weights, (b.alpha for b in blocks))
        ]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('dtype', ['bfloat16', pytest.param('float16', marks=needs_gpu)])
@pytest.mark.parametrize('counts', [1, 3])
def test_alpha_steps_where_the_weights_step(small_cfg, run, dtype, counts):
    small_cfg.optim_wrapper.update(type='AnyDeviceAmp', dtype=dtype, loss_scale='dynamic', accumulative_counts=counts)
    # gradients that at first are too large for the scale
    small_cfg.model.head.loss.loss_weight = 20
    small_cfg.optim_wrapper.optimizer.lr *= 0.05
    small_cfg.custom_hooks[0].update(warmup=0, frozen=1)
    watch = Watch()
    runner = run(small_cfg, watch)
    search = watch.rows[:15]
    assert [weights for weights, *_ in search] == [alpha for _, alpha, _ in search]
    ends = [row for i, row in enumerate(search, 1) if i % counts == 0]
    assert {skipped for *_, skipped in ends} == {False, True}
    assert all(weights != skipped for weights, _, skipped in ends)
    assert not any(alpha for _, alpha, _ in watch.rows[15:])
    assert all(block.alpha.isfinite().all() for block in find_blocks(runner.model).values())


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('dtype', ['bfloat16', pytest.param('float16', marks=needs_gpu)])
def test_shrink_steps_alpha_where_the_weights_step_and_absorbs(small_cfg, run, dtype):
    small_cfg.optim_wrapper.update(type='AnyDeviceAmp', dtype=dtype, loss_scale='dynamic')
    small_cfg.model.head.loss.loss_weight = 20
    small_cfg.optim_wrapper.optimizer.lr *= 0.05
    small_cfg.model.backbone.share_weights = False
    del small_cfg.custom_hooks[0]['alpha_optimizer']
    small_cfg.custom_hooks[0].update(strategy='shrink', warmup=0, frozen=1)
    watch = Watch()
    runner = run(small_cfg, watch)
    rows = watch.rows
    assert not any(alpha for _, alpha, _ in (*rows[:7], *rows[15:]))
    assert [weights for weights, *_ in rows[7:15]] == [alpha for _, alpha, _ in rows[7:15]]
    assert {skipped for *_, skipped in rows[7:15]} == {False, True}
    blocks = find_blocks(runner.model).values()
    assert sum(len(b.active_branches) for b in blocks) == 10
    assert all(p.isfinite().all() for p in runner.model.parameters())
