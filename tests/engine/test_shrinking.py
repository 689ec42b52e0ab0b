"""The search in a plain PyTorch loop is that of the hook, and ends in an ordinary network."""

import pytest
import torch
from mmengine.hooks import Hook
from scripts import load_script
from torch import nn
from torch.nn.functional import cross_entropy

from repnas_mm.engine import Shrinking
from repnas_mm.engine.fusing import fuse_checked
from repnas_mm.models import to_odbb
from repnas_mm.search import find_blocks

BRANCHES = 9


class InThisLoop(Hook):
    """Searches by `Shrinking` in a runner that has no RepNASHook."""

    def before_train(self, runner):
        self.search = Shrinking(runner.model, runner.optim_wrapper.optimizer, BRANCHES, runner.max_iters)

    def after_train(self, runner):
        self.genotype = self.search.finish()


def test_it_is_the_hooks_search_bit_for_bit(small_cfg, run):
    small_cfg.model.backbone.share_weights = False
    small_cfg.custom_hooks = [dict(type='RepNASHook', num_branches=BRANCHES)]
    small_cfg.val_cfg = small_cfg.val_dataloader = small_cfg.val_evaluator = None
    blocks = find_blocks(run(small_cfg).model)
    hooked = {n: b.active_branches for n, b in blocks.items()}
    weights = {n: [branch.norm.weight for branch in b.branches.values()] for n, b in blocks.items()}
    small_cfg.custom_hooks = []
    hook = InThisLoop()
    model = run(small_cfg, hook).model
    assert dict(hook.genotype) == hooked and hook.genotype.num_branches == BRANCHES
    for name, block in find_blocks(model).items():
        kept = [w for w, c in zip(weights[name], block.candidates) if c in hooked[name]]
        assert all(torch.equal(branch.norm.weight, w) for branch, w in zip(block.branches.values(), kept, strict=True))


def network():
    torch.manual_seed(0)
    return to_odbb(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)))


def test_gradients_may_be_accumulated_and_a_validation_at_the_cut_absorbs_nothing():
    model, x = network(), torch.randn(8, 3, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    search = Shrinking(model, optimizer, num_branches=3, steps=30)
    active = []
    for _ in range(7):
        for _ in range(2):
            model.train()(x).square().mean().backward()
            active.append(sum(len(block.active_branches) for block in find_blocks(model).values()))
        optimizer.step()
        optimizer.zero_grad()
        model.eval()(x)
    assert active == [10] * 12 + [3] * 2  # the cut is behind six steps, a fifth of thirty
    assert search.finish().num_branches == 3
    optimizer.step(lambda: None)  # a search that has ended forbids no closure


def test_alpha_is_no_parameter_of_the_optimizer():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    search = Shrinking(model, optimizer, num_branches=3, steps=30)
    held = {id(p) for group in optimizer.param_groups for p in group['params']}
    assert held and not held & {id(alpha) for alpha in search.search.alphas}


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (dict(num_branches=3, steps=10), 'steps=10 are too few'),
        (dict(num_branches=1, steps=100), 'num_branches=1 is less than the 2 ODBB blocks'),
        (dict(num_branches=11, steps=100), 'num_branches=11 is more than the 10 branches'),
    ],
)
def test_a_search_that_cannot_be_is_one_sentence(arguments, said):
    model = network()
    with pytest.raises(ValueError, match=said):
        Shrinking(model, torch.optim.SGD(model.parameters(), lr=0.1), **arguments)


def test_an_end_before_the_cut_is_one_sentence():
    model = network()
    search = Shrinking(model, torch.optim.SGD(model.parameters(), lr=0.1), num_branches=3, steps=30)
    with pytest.raises(RuntimeError, match='Branches leave after 6 steps of the optimizer, which has made 0'):
        search.finish()


@pytest.mark.parametrize('name', ['mobilenetv2_050', 'regnetx_002'])
def test_a_timm_model_is_searched_fused_and_has_its_own_keys_again(name):
    timm = pytest.importorskip('timm')
    stock = timm.create_model(name, num_classes=2)
    torch.manual_seed(0)
    model = to_odbb(timm.create_model(name, num_classes=2))
    blocks = find_blocks(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    search = Shrinking(model, optimizer, num_branches=2 * len(blocks), steps=20)
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    for _ in range(20):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    assert search.finish().num_branches == 2 * len(blocks)

    @torch.no_grad()
    def outputs(net):
        return [net.eval()(x)]

    assert fuse_checked(model, outputs).difference < 1e-4
    stock.load_state_dict(model.state_dict())
    torch.testing.assert_close(outputs(stock), outputs(model))


def test_the_example_runs(capsys):
    assert load_script('demo/plain_pytorch.py').main(epochs=2) > 0.5
    assert 'kxk' in capsys.readouterr().out
