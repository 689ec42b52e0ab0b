"""How a block starts: shared branches as their mean, so that it is about as loud as one convolution."""

import pytest
import torch
from blocks import make_image

from repnas_mm.models import ODBBlock


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
