"""The gradient of the gates z = 1 of Eq. 12 and 13, which a block reads off its BNs."""

import copy

import pytest
import torch
from blocks import make_block, make_image, mask_of, masks
from reference import Reference


def backward(block, image, upstream):
    """Gradients of the gates after forward and backward."""
    block(image).backward(upstream)
    return block.gate_gradients()


def upstream_of(*shape, seed=3):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
@pytest.mark.parametrize(
    'shape',
    [
        dict(out_channels=4, kernel_size=5),
        dict(out_channels=4, kernel_size=5, with_cp=True),
        dict(out_channels=6, stride=2),
        dict(out_channels=8, groups=2, dilation=2),
        dict(out_channels=128, kernel_size=5),
    ],
    ids=['block', 'recomputing', 'strided', 'grouped', 'stem'],
)
def test_it_is_what_the_output_of_a_branch_is_worth_and_exactly_zero_for_dropped_branches(
    shape, share_weights, training
):
    original = make_block(4, **shape, share_weights=share_weights).train(training)
    x = make_image(3, 4, 6, 7)
    upstream = upstream_of(*copy.deepcopy(original)(x).shape)  # a copy, as a forward moves BN statistics
    for mask in masks(original)[::9]:
        block, reference = copy.deepcopy(original), Reference(original)
        block.set_active(mask)
        got = backward(block, x.clone().requires_grad_(), upstream)
        outputs = reference.branches(x, block.active_branches, training)
        for j, name in enumerate(block.candidates):
            if name in outputs:
                expected = (upstream * outputs[name]).sum().detach()
                torch.testing.assert_close(got[j], expected, rtol=1e-10, atol=1e-10)
            else:
                assert got[j] == 0


def test_gradients_of_several_backward_passes_add_up_until_they_are_dropped():
    block = make_block().eval()  # in training mode, the border of the second pass would differ
    passes = [(make_image(2, 4, 6, 7, seed=seed), upstream_of(2, 4, 6, 7, seed=seed)) for seed in range(2)]
    alone = []
    for image, upstream in passes:
        alone.append(backward(block, image, upstream))
        block.zero_grad()
    assert not block.gate_gradients().any()
    for image, upstream in passes:
        together = backward(block, image, upstream)
    torch.testing.assert_close(together, sum(alone), rtol=1e-12, atol=1e-12)
    block.zero_grad(set_to_none=False)
    assert not block.gate_gradients().any()


def test_a_branch_that_left_since_the_backward_counts_no_more():
    block = make_block()
    before = backward(block, make_image(2, 4, 6, 7), upstream_of(2, 4, 6, 7))
    assert before.all()
    kept = mask_of(block, ('kxk', 'skip'))
    block.set_active(kept)
    torch.testing.assert_close(block.gate_gradients(), before * torch.tensor(kept))


def test_alpha_itself_has_no_part_in_forward_and_backward():
    block = make_block()
    block(make_image(2, 4, 6, 7)).sum().backward()
    assert block.alpha.grad is None


@pytest.mark.parametrize('frozen', ['weight', 'bias'])
def test_a_block_whose_norms_do_not_train_has_nothing_to_search_by(frozen):
    block = make_block()
    assert block.searchable
    getattr(block.branches['kxk'].norm, frozen).requires_grad_(False)
    assert not block.searchable


@pytest.mark.parametrize('kept', [('1xk',), ('kxk', 'skip'), ('1x1', 'kxk', '1x1_avg', 'kx1')])
def test_before_a_normalized_block_branches_can_only_win_from_each_other(kept):
    """Euler: the loss does not change if z scales all of a block, so the gradients of its z add up to 0."""
    torch.manual_seed(0)
    norm_cfg = dict(type='BN', eps=1e-12)  # which is what keeps BN from being exactly invariant
    blocks = [make_block(8, 8, norm_cfg=norm_cfg, dtype=torch.float64).train() for _ in range(2)]
    head = torch.nn.Linear(8, 5).double()
    images, labels = make_image(16, 8, 6, 6), torch.arange(16) % 5
    for block in blocks:
        block.set_active(mask_of(block, kept))
    features = blocks[1](blocks[0](images)).mean((2, 3))
    torch.nn.functional.cross_entropy(5 * head(features), labels).backward()
    first, last = (block.gate_gradients() for block in blocks)
    assert abs(first.sum()) < 1e-3 * last.abs().sum()
    assert abs(last.sum()) > 0.1 * last.abs().max()  # while the last block scales the logits
    if len(kept) == 1:
        assert first.abs().max() < 1e-3 * last.abs().max()
    else:
        assert first.abs().max() > 1e-2 * last.abs().max()
