"""The naive block computes what ours does, so that the two may be compared by their cost."""

from itertools import product

import pytest
import torch

from benchmarking.naive import NaiveBlock, naive, naive_blocks
from repnas_mm.models import ODBBBackbone, ODBBlock
from repnas_mm.search import find_blocks


def twins(**shape):
    """An unshared block and a naive one of the same weights."""
    torch.manual_seed(0)
    block = ODBBlock(**shape, share_weights=False).double()
    for p in block.parameters():
        torch.nn.init.normal_(p)
    slow = NaiveBlock(block).double()
    for name, branch in slow.branches.items():
        ours, modules = block.branches[name], list(branch)
        modules.pop().load_state_dict(ours.norm.state_dict())
        if name == '1x1_kxk':
            modules[0].weight.data = ours.pointwise_kernel(None).detach()
            modules[1].norm.load_state_dict(ours.inner_norm.state_dict())
            modules[2].weight.data = ours.weight.detach()
        elif name != 'skip':
            modules[0].weight.data = ours.weight.detach()
            if name == '1x1_avg':
                modules[1].norm.load_state_dict(ours.inner_norm.state_dict())
    return block, slow


@pytest.mark.parametrize(
    'shape',
    [dict(in_channels=3, out_channels=3), dict(in_channels=3, out_channels=5, stride=2)],
    ids=['same', 'wider, strided'],
)
def test_it_computes_what_ours_computes_and_gates_have_the_same_gradient(shape):
    block, slow = twins(**shape)
    for mask in product([True, False], repeat=len(block.candidates)):
        if not any(mask):
            continue
        results = []
        for b in (block, slow):
            b.set_active(mask)
            b.zero_grad()
            x = torch.randn(2, 3, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            y = b(x.requires_grad_())
            y.square().sum().backward()
            results.append([y, x.grad, b.gate_gradients()])
        torch.testing.assert_close(*results)


def test_a_naive_backbone_has_a_naive_block_for_every_block_and_leaves_the_original():
    backbone = ODBBBackbone('A0', base_channels=4)
    slow = naive(backbone)
    assert naive_blocks(slow).keys() == find_blocks(backbone).keys()
    assert not naive_blocks(backbone) and not find_blocks(slow)
