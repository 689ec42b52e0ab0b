"""Branches that leave are absorbed by `kxk`: what a block computes stays the same."""

import copy
from functools import partial

import pytest
import torch
from blocks import make_block, make_image, mask_of, relative_error
from reference import Reference

from repnas_mm.models import ODBBBackbone, ODBBlock

SIMPLE, COMPOSITE = ('1x1', '1xk', 'kx1', 'skip'), ('1x1_kxk', '1x1_avg')
SETS = [(name,) for name in (*SIMPLE, *COMPOSITE)] + [SIMPLE, (*SIMPLE, *COMPOSITE)]
shapes = pytest.mark.parametrize('kernel_size', [3, 5, 7])
strides = pytest.mark.parametrize('stride', [1, 2])
groupings = pytest.mark.parametrize('groups', [1, 2, 4])


def names_in(block, names):
    return [name for name in names if name in block.candidates]


def inside(y, kernel_size, stride):
    """Pixels whose window sees no border."""
    edge = -(-(kernel_size // 2) // stride)
    return y[:, :, edge : y.shape[2] - edge, edge : y.shape[3] - edge]


@pytest.mark.parametrize('names', SETS, ids='+'.join)
@groupings
@strides
@shapes
@pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
def test_in_eval_mode_every_output_stays_the_same(kernel_size, stride, groups, names, share_weights):
    block = make_block(4, 4, kernel_size, stride, groups, share_weights=share_weights).eval()
    leaving = names_in(block, names)
    staying = [] if share_weights else ['1x1', 'kx1']
    leaving = [name for name in leaving if name not in staying]
    if not leaving:
        return
    block.set_active(mask_of(block, ['kxk', *leaving, *staying]))
    x, other = make_image(3, 4, 15, 14), make_image(2, 4, 11, 12, seed=2)
    expected = [sum(Reference(block).branches(i, block.active_branches, False).values()) for i in (x, other)]
    block.absorb(leaving, x)
    assert block.active_branches == tuple(n for n in block.candidates if n in ('kxk', *staying))
    for image, wanted in zip((x, other), expected):
        assert relative_error(block(image), wanted) < 1e-10


@pytest.mark.parametrize('names', SETS, ids='+'.join)
@groupings
@strides
@shapes
def test_in_training_mode_the_output_for_that_input_stays_the_same(kernel_size, stride, groups, names):
    block = make_block(4, 4, kernel_size, stride, groups, share_weights=False).train()
    leaving = names_in(block, names)
    if not leaving:
        return
    block.set_active(mask_of(block, ['kxk', *leaving]))
    x = make_image(3, 4, 15, 14)
    expected = sum(Reference(block).branches(x, block.active_branches, True).values())
    block.absorb(leaving, x)
    got = block(x)
    if set(leaving) & set(COMPOSITE):  # whose border is padded by running statistics
        got, expected = inside(got, kernel_size, stride), inside(expected, kernel_size, stride)
    assert relative_error(got, expected) < 1e-10


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_a_dilated_block_absorbs_as_exactly(training, stride):
    block = make_block(kernel_size=3, stride=stride, dilation=2, share_weights=False).train(training)
    x, leaving = make_image(3, 4, 15, 14), names_in(block, (*SIMPLE, *COMPOSITE))
    expected = sum(Reference(block).branches(x, block.candidates, training).values())
    block.absorb(leaving, x)
    got, cut = block(x), partial(inside, kernel_size=5, stride=stride) if training else torch.clone
    assert relative_error(cut(got), cut(expected)) < 1e-10


def test_where_the_running_statistics_are_those_of_the_batch_the_border_stays_the_same_too():
    block = make_block(share_weights=False).train()
    block.set_active(mask_of(block, ['kxk', '1x1_kxk', '1x1_avg']))
    x = make_image(3, 4, 15, 14)
    for name in ('1x1_kxk', '1x1_avg'):
        inner = block.branches[name].inner_norm
        y = torch.nn.functional.conv2d(x, block.branches[name].pointwise_kernel(None)).detach()
        inner.momentum = 0.0
        inner.running_mean.copy_(y.mean((0, 2, 3)))
        inner.running_var.copy_(y.var((0, 2, 3), correction=0))
    expected = block(x)
    block.absorb(('1x1_kxk', '1x1_avg'), x)
    assert relative_error(block(x), expected) < 1e-10


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('gamma', [0.0, 1e-300, -1e-12, 1e-3])
def test_a_main_branch_that_hardly_counts_absorbs_as_exactly(gamma, training):
    block = make_block(share_weights=False).train(training)
    with torch.no_grad():
        block.branches['kxk'].norm.weight[:2] = gamma
    norms = block.branches['kxk'].weight.detach().flatten(1).norm(dim=1).clone()
    block.set_active(mask_of(block, ['kxk', '1x1', 'skip']))
    x = make_image(3, 4, 9, 8)
    expected = sum(Reference(block).branches(x, block.active_branches, training).values())
    block.absorb(('1x1', 'skip'), x)
    assert all(p.isfinite().all() for p in block.parameters())
    assert relative_error(block(x), expected) < 1e-10
    torch.testing.assert_close(block.branches['kxk'].weight.detach().flatten(1).norm(dim=1), norms)


def test_branches_that_do_nothing_leave_the_main_branch_as_it_is():
    block = make_block(share_weights=False).train()
    with torch.no_grad():
        for name in ('1x1', 'skip'):
            block.branches[name].norm.weight.zero_()
            block.branches[name].norm.bias.zero_()
    block.set_active(mask_of(block, ['kxk', '1x1', 'skip']))
    before = copy.deepcopy(block.branches['kxk'])
    block.absorb(('1x1', 'skip'), make_image(3, 4, 9, 8))
    torch.testing.assert_close(block.branches['kxk'].weight, before.weight)
    torch.testing.assert_close(block.branches['kxk'].norm.weight, before.norm.weight)


def test_a_subnet_loses_what_is_absorbed():
    block = make_block(branches=('kxk', '1x1', 'skip'), share_weights=False).eval()
    x = make_image(2, 4, 9, 8)
    expected = block(x)
    block.absorb(('skip',), x)
    assert tuple(block.branches) == block.active_branches == ('1x1', 'kxk')
    assert relative_error(block(x), expected) < 1e-10


def test_the_loss_of_a_network_does_not_step():
    torch.manual_seed(0)
    arch = dict(num_blocks=[2, 2], width_factor=[0.25, 0.25], strides=[2, 2])
    network = ODBBBackbone(arch, base_channels=32, share_weights=False).train()
    images = torch.randn(8, 3, 32, 32)
    before = copy.deepcopy(network)(images)[-1]  # a forward moves the statistics that pad the borders
    blocks = [module for module in network.modules() if isinstance(module, ODBBlock)]
    handles = [
        block.register_forward_pre_hook(
            lambda block, inputs: block.absorb([n for n in block.active_branches if n in SIMPLE], inputs[0])
        )
        for block in blocks
    ]
    after = network(images)[-1]
    for handle in handles:
        handle.remove()
    assert all(set(block.active_branches) == {'kxk', *COMPOSITE} for block in blocks)
    assert relative_error(after, before) < 1e-4


@pytest.mark.parametrize(
    'names, match',
    [
        (('kxk',), "'kxk' is the branch that absorbs the others"),
        (('1xk',), "Branch '1xk' is not active"),
        (('2x2',), "Unknown branch '2x2'"),
        ((), 'at least one branch'),
    ],
)
def test_what_cannot_be_absorbed_is_refused(names, match):
    block = make_block(share_weights=False)
    block.set_active(mask_of(block, ('kxk', '1x1')))
    with pytest.raises(ValueError, match=match):
        block.absorb(names, make_image(2, 4, 6, 7))


def test_a_block_that_cannot_absorb_says_why():
    x = make_image(2, 4, 6, 7)
    with pytest.raises(ValueError, match='shares its kernel with a branch that stays'):
        make_block(share_weights=True).absorb(('skip',), x)
    block = make_block(share_weights=False)
    block.set_active(mask_of(block, ('1x1', 'skip')))
    with pytest.raises(ValueError, match="Branch 'kxk' is not active"):
        block.absorb(('skip',), x)
    block.switch_to_deploy()
    with pytest.raises(RuntimeError, match='A fused ODBBlock has no branches left to absorb'):
        block.absorb(('skip',), x)
