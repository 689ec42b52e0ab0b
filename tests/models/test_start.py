"""How a block starts: shared branches as their mean, so that it is about as loud as one convolution."""

import pytest
import torch
from blocks import make_image
from mmengine.model import BaseModule, Sequential
from torch import nn

from repnas_mm.models import ODBBlock
from repnas_mm.models.start import let_skip_lead, start_as_mean


@pytest.mark.parametrize('branches', [None, ('kxk',), ('1x1', 'kxk', 'skip')])
def test_shared_branches_start_as_their_mean(branches):
    block = ODBBlock(4, 4, branches=branches, share_weights=True, act_cfg=None)
    y = block(make_image(8, 4, 6, 7).float())
    assert all((branch.norm.weight == 1 / len(block.branches)).all() for branch in block.branches.values())
    # each branch has deviation 1 over the batch, and that of a mean is at most as much
    assert y.std((0, 2, 3), correction=0).max() <= 1 + 1e-5


def test_unshared_branches_start_as_in_hand_made_blocks():
    block = ODBBlock(4, 4)
    assert all((branch.norm.weight == 1).all() for branch in block.branches.values())


def test_a_branch_without_the_kernel_is_not_made_quieter():
    block = ODBBlock(4, 4, branches=('skip',), share_weights=True)
    assert block.weight is None
    assert torch.equal(block.branches['skip'].norm.weight, torch.ones(4))


#: As stock backbones have it; and ways to the same that do not go through MMEngine's classes
CONSTANT = dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm'])
INITIALIZATIONS = {
    'stock': CONSTANT,
    'by class': dict(type='Constant', val=1, layer='BatchNorm2d'),
    'several': [dict(type='Kaiming', layer='Conv2d'), CONSTANT],
    'none': None,
}


class Network(BaseModule):
    """Blocks below a container of MMEngine, which hands an initialization on, and one of torch, which does not."""

    def __init__(self, init_cfg, **block):
        super().__init__(init_cfg)
        self.ours = Sequential(ODBBlock(4, 4, **block), ODBBlock(4, 8, stride=2, **block))
        self.torchs = nn.Sequential(nn.ModuleList([ODBBlock(4, 4, **block)]))

    def blocks(self):
        return [module for module in self.modules() if isinstance(module, ODBBlock)]


@pytest.mark.parametrize('init_cfg', INITIALIZATIONS.values(), ids=INITIALIZATIONS)
def test_the_start_survives_initialization(init_cfg):
    network = Network(init_cfg, share_weights=True)
    for _ in range(2):
        network._is_init = False
        network.init_weights()
        for block in network.blocks():
            assert all((branch.norm.weight == 1 / len(block.branches)).all() for branch in block.branches.values())
    for block in Network(init_cfg).blocks():
        assert let_skip_lead(block) == ('skip' in block.candidates)


@pytest.mark.parametrize('share_weights', [True, False])
def test_what_was_loaded_does_not_start(share_weights):
    """A network whose γ never moved from 1, as where they were frozen."""
    network = Network(CONSTANT, share_weights=share_weights)
    state = {key: torch.ones_like(v) if key.endswith('norm.weight') else v for key, v in network.state_dict().items()}
    network.load_state_dict(state)
    network.apply(lambda module: None)
    for block in network.blocks():
        start_as_mean(block)
        assert not let_skip_lead(block)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_weights_of_an_init_cfg_are_loaded_ones(tmp_path):
    trained = Network(None, share_weights=True)
    for block in trained.blocks():
        nn.init.constant_(block.branches['kxk'].norm.weight, 1)
        nn.init.uniform_(block.branches['1x1'].norm.weight)
    torch.save(trained.state_dict(), tmp_path / 'trained.pth')
    network = Network([CONSTANT, dict(type='Pretrained', checkpoint=str(tmp_path / 'trained.pth'))], share_weights=True)
    network.init_weights()
    state = network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in trained.state_dict().items())


def test_other_scales_are_left_as_they_are():
    block = ODBBlock(4, 4, share_weights=True)
    norms = [branch.norm for branch in block.branches.values()]
    for value in (0.5, 0.0):
        block.apply(lambda module, value=value: module in norms and nn.init.constant_(module.weight, value))
        assert all((norm.weight == value).all() for norm in norms)
