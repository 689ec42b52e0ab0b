"""Numbers gone bad end the run with their place and the checkpoint to go back to."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from repnas_mm.engine.checkpoint import load_file
from repnas_mm.engine.divergence import find_divergence
from repnas_mm.models import ODBBBackbone

NAN, INF = float('nan'), float('inf')


class Inject(Hook):
    """Does something to the model before an iteration, counted from 0."""

    priority = 'VERY_LOW'

    def __init__(self, iteration: int, do):
        self.iteration, self.do = iteration, do

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            self.do(runner.model)


def keep_branch(block, name: str):
    """Have the block compute only this branch."""
    mask = torch.tensor([candidate == name for candidate in block.candidates])
    block.set_active(mask)
    return block.branches[name]


def spoil_gradient(model) -> None:
    """NaN in the gradient of one branch's γ, once."""
    norm = keep_branch(model.backbone.stage_2[0], '1xk').norm
    handle = norm.weight.register_hook(lambda grad: (handle.remove(), grad * NAN)[1])


def spoil_statistics(model) -> None:
    """Activations overflow in one branch."""
    norm = keep_branch(model.backbone.stage_2[0], 'kx1').norm
    handle = norm.register_forward_pre_hook(lambda _, args: (handle.remove(), (args[0] * INF,))[1])


def spoil_loss(model) -> None:
    loss = model.head.loss_module
    handle = loss.register_forward_hook(lambda *args: (handle.remove(), args[-1] * NAN)[1])


def spoil_alpha(model) -> None:
    model.backbone.stage_2[0].alpha.data[1] = INF


@pytest.mark.parametrize(
    ('do', 'where'),
    [
        (spoil_gradient, "norm.weight of branch '1xk' in block 'backbone.stage_2.0' is not finite"),
        (spoil_statistics, "norm.running_mean of branch 'kx1' in block 'backbone.stage_2.0' is not finite"),
        (spoil_loss, "'loss' is nan"),
        (spoil_alpha, "alpha of branch 'kxk' in block 'backbone.stage_2.0' is not finite"),
    ],
)
@pytest.mark.parametrize('iteration', [5, 8, 14], ids=['warmup', 'search', 'frozen'])
def test_the_place_and_the_last_good_checkpoint_are_named(small_cfg, run, do, where, iteration):
    small_cfg.default_hooks.checkpoint.max_keep_ckpts = 1
    with pytest.raises(FloatingPointError) as error:
        run(small_cfg, Inject(iteration, do))
    last = Path(small_cfg.work_dir) / f'epoch_{iteration // 3}.pth'  # the epoch before, which was not removed
    assert str(error.value).startswith('The training diverged: ') and where in str(error.value)
    assert f"resume from '{last}' with a smaller learning rate" in str(error.value)
    tensors = load_file(last)['state_dict'].values()
    assert all(t.isfinite().all() for t in tensors if t.is_floating_point())


def test_an_alpha_is_noticed_before_it_chooses(small_cfg, run):
    with pytest.raises(FloatingPointError, match="alpha of branch 'kxk'"):
        run(small_cfg, Inject(6, spoil_alpha), stop_after=None)


def test_a_loss_scaler_may_skip_a_bad_loss_but_not_bad_weights():
    model = ODBBBackbone(arch='A0', base_channels=8, share_weights=True)
    assert find_divergence(model, dict(loss=torch.tensor(1.0))) is None
    assert find_divergence(model, dict(loss=torch.tensor(INF)), scaled=True) is None
    assert find_divergence(model, dict(loss=torch.tensor(INF))) == "'loss' is inf"
    model.stem.weight.data[0, 0, 0, 0] = NAN
    for scaled in (False, True):
        found = find_divergence(model, dict(loss=torch.tensor(1.0)), scaled)
        assert found == "weight of block 'stem' is not finite"


def test_other_modules_are_named_too():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
    model[1].running_var[0] = INF
    assert find_divergence(model, {}) == "'1.running_var' is not finite"
