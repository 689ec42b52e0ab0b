"""The start of a block that trains with all its branches: `skip` has 0.7 of the variance of their sum."""

import pytest
import torch

from repnas_mm.models import ODBBlock
from repnas_mm.models.start import let_skip_lead


def gammas(block):
    return {name: branch.norm.weight.detach().clone() for name, branch in block.branches.items()}


def test_skip_has_seven_tenths_of_the_variance():
    torch.manual_seed(0)
    block = ODBBlock(32, 32, share_weights=False, act_cfg=None)
    assert let_skip_lead(block)
    x = torch.randn(64, 32, 12, 12)
    with torch.no_grad():
        total = block(x).var((0, 2, 3))
        block.set_active([name == 'skip' for name in block.candidates])
        skip = block(x).var((0, 2, 3))
    assert (skip.sum() / total.sum()).item() == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize('arguments', [dict(share_weights=True), dict(stride=2), dict(branches=('kxk', 'skip'))])
def test_shared_blocks_presets_and_blocks_without_skip_keep_their_start(arguments):
    block = ODBBlock(4, 4, **arguments)
    before = gammas(block)
    assert not let_skip_lead(block)
    assert all(torch.equal(gamma, before[name]) for name, gamma in gammas(block).items())


def test_loaded_weights_keep_their_scales():
    block = ODBBlock(4, 4, share_weights=False)
    block.load_state_dict(dict(weight=torch.randn(4, 4, 3, 3), bias=torch.randn(4)))
    before = gammas(block)
    assert not let_skip_lead(block)
    assert all(torch.equal(gamma, before[name]) for name, gamma in gammas(block).items())
