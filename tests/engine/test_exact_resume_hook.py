"""ExactResumeHook: a training that is stopped and resumed is the one that never stopped, with or without a search."""

from pathlib import Path

import pytest
import torch

from repnas_mm.engine.checkpoint import load_file


@pytest.fixture
def without_search(small_cfg):
    """A training that is left to chance in its data and its images."""
    small_cfg.model.backbone.genotype = 'repvgg'
    small_cfg.custom_hooks = [dict(type='ExactResumeHook')]
    small_cfg.model.train_cfg = dict(augments=dict(type='Mixup', alpha=0.5))
    small_cfg.model.head.loss = dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
    return small_cfg


def weights(runner) -> dict[str, torch.Tensor]:
    return runner.model.state_dict()


def log_of(runner) -> str:
    return (Path(runner._log_dir) / f'{runner.timestamp}.log').read_text()


@pytest.mark.parametrize('exact', [True, False])
@pytest.mark.parametrize('loop', ['epoch', 'iter'])
def test_a_training_without_a_search_resumes_exactly_by_this_hook_alone(
    without_search, by_iter, run, tmp_path, loop, exact
):
    cfg = without_search
    if loop == 'iter':
        cfg.custom_hooks.insert(0, dict())  # by_iter sets phases of a search
        by_iter(cfg).custom_hooks.pop(0)
    if not exact:
        cfg.custom_hooks = [dict(type='SafeLoadHook')]
    whole = run(cfg)
    cfg.work_dir = str(tmp_path / 'interrupted')
    run(cfg, stop_after=10)
    resumed = run(cfg, resume=True)
    same = [torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items()]
    assert all(same) is exact


def test_a_search_resumes_without_this_hook_though_not_exactly(small_cfg, run):
    small_cfg.custom_hooks = [hook for hook in small_cfg.custom_hooks if hook.type == 'RepNASHook']
    run(small_cfg, stop_after=9)
    saved = load_file(Path(small_cfg.work_dir) / 'epoch_3.pth')
    assert 'random_states' not in saved and saved['repnas']['alpha_optimizer']['state']
    runner = run(small_cfg, resume=True)
    assert runner.iter == 18 and 'resumed epoch: 3' in log_of(runner)


def test_a_checkpoint_without_random_states_is_warned_about(small_cfg, run):
    hooks = small_cfg.custom_hooks
    small_cfg.custom_hooks = [hook for hook in hooks if hook.type != 'ExactResumeHook']
    run(small_cfg, stop_after=3)
    small_cfg.custom_hooks = hooks
    log = log_of(run(small_cfg, resume=True, stop_after=6))
    assert 'its checkpoint has the states of 0 ranks, this run has 1' in log


def test_the_hooks_work_in_any_order_of_the_config(small_cfg, run):
    runner = run(small_cfg, stop_after=1)
    order = [type(hook).__name__ for hook in runner.hooks]
    small_cfg.custom_hooks = [*reversed(small_cfg.custom_hooks)]
    again = [type(hook).__name__ for hook in run(small_cfg, stop_after=1).hooks]
    assert order == again
    ours = ['CheckFiniteHook', 'RepNASHook', 'LoggerHook', 'ExactResumeHook', 'CheckpointHook']
    assert sorted(ours, key=order.index) == ours
