"""Recomputation changes what is saved for backward, and nothing else."""

import copy

import pytest
import torch
from blocks import make_block, make_image, mask_of, masks
from torch.utils._python_dispatch import TorchDispatchMode

from repnas_mm.models import fast
from repnas_mm.search.memory import bytes_saved_for_backward

IMAGE = (2, 4, 16, 16)
MAP = 2 * 4 * 16 * 16 * 8  # bytes of a feature map, float64


def without_recompute(function, *args):
    """Compute a function's result with everything saved."""
    with fast.without('recompute'):
        return function(*args)


class Convolutions(TorchDispatchMode):
    """Counts forward convolutions."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ == 'convolution'
        return func(*args, **(kwargs or {}))


def step(block, image, dtype=None, backward_dtype=None):
    """Output and all gradients of one step; backward runs outside autocast, as in training, or under its own."""
    block, image = copy.deepcopy(block), image.clone().requires_grad_()
    with torch.autocast('cpu', dtype, enabled=dtype is not None):
        y = block(image)
    with torch.autocast('cpu', backward_dtype, enabled=backward_dtype is not None):
        y.square().sum().backward()
    return [y, image.grad, *(p.grad for p in block.parameters() if p.grad is not None), *block.buffers()]


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
def test_every_number_is_the_same_bit_for_bit(share_weights, stride, training):
    block = make_block(share_weights=share_weights, stride=stride).train(training)
    for mask in masks(block)[::5]:
        block.set_active(mask)
        got, expected = step(block, make_image(*IMAGE)), without_recompute(step, block, make_image(*IMAGE))
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize('dtypes', [(torch.bfloat16, None), (None, torch.bfloat16)], ids=['forward', 'backward'])
@pytest.mark.parametrize('stride', [1, 2])
def test_under_autocast_backward_computes_in_the_precision_of_the_forward(stride, dtypes):
    block, image = make_block(dtype=torch.float32, stride=stride), torch.randn(*IMAGE)
    got, expected = step(block, image, *dtypes), without_recompute(step, block, image, *dtypes)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_second_derivatives_are_those_without():
    def penalty(block, image):
        block, image = copy.deepcopy(block), image.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(block(image).square().sum(), image, create_graph=True)
        gradient.square().sum().backward()
        return image.grad

    # eval mode: torch has no third derivative of a BN in training, which these branches' second one needs
    block, image = make_block().eval(), make_image(*IMAGE)
    torch.testing.assert_close(penalty(block, image), without_recompute(penalty, block, image))


@pytest.mark.parametrize(
    'branches, maps',
    [
        (('1x1',), 0),
        (('1x1_avg',), 1),
        (('skip',), 0),
        (('kxk',), 1),
        (('1x1_kxk',), 2),
        (('1xk', 'kx1'), 2),
        (('1x1', 'kxk', '1x1_kxk', '1x1_avg', '1xk', 'kx1', 'skip'), 6),
    ],
)
def test_what_is_saved_is_all_but_the_outputs_of_1x1_convolutions(branches, maps):
    block = make_block(share_weights=True)
    block.set_active(mask_of(block, branches))
    image = make_image(*IMAGE).requires_grad_()
    kept = bytes_saved_for_backward(lambda: block(image), (image, *block.parameters(), *block.buffers()))
    small = 8 * 4 * 8 * len(branches)  # moments, a few numbers a channel
    assert maps * MAP <= kept <= maps * MAP + small + 2 * block.weight.nbytes


def test_dropped_activations_are_not_held_by_what_computes_them_again():
    block = make_block()
    block.set_active(mask_of(block, ('1x1', 'skip')))
    image = make_image(*IMAGE).requires_grad_()
    owned = (image, *block.parameters(), *block.buffers())
    y = block(image)

    def backward_keeping_the_graph():
        torch.autograd.grad(y.sum(), image, retain_graph=True)
        return y

    assert bytes_saved_for_backward(backward_keeping_the_graph, owned) < MAP


def test_a_1x1_convolution_is_computed_again_once_in_every_backward():
    """`1x1_kxk` has 1×1 and K×K forward, and the 1×1 again in backward."""
    block = make_block()
    block.set_active(mask_of(block, ('1x1_kxk',)))
    image = make_image(*IMAGE).requires_grad_()
    with Convolutions() as forward:
        y = block(image).square().sum()
    with Convolutions() as backward:
        y.backward(retain_graph=True)
    assert (forward.count, backward.count) == (2, 1)
    with Convolutions() as again:
        y.backward()
    assert again.count == 1
