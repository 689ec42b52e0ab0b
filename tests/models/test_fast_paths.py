"""Every fast path can be switched off, and what a block computes does not depend on it."""

import copy

import pytest
import torch
from blocks import make_block, make_image, masks

from repnas_mm.models import fast


def step(block, image):
    """Output, all gradients and statistics of one training step."""
    block, image = copy.deepcopy(block), image.clone().requires_grad_()
    y = block(image)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return [y, image.grad, *(p.grad for p in block.parameters() if p.grad is not None), *block.buffers()]


@pytest.mark.parametrize('path', fast.PATHS)
@pytest.mark.parametrize('stride, dilation', [(1, 1), (2, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
@pytest.mark.parametrize('out_channels', [4, 60], ids=['block', 'stem'])
def test_without_it_a_block_computes_the_same(path, stride, dilation, share_weights, out_channels):
    shape = dict(out_channels=out_channels, stride=stride, dilation=dilation)
    block, image = make_block(**shape, share_weights=share_weights), make_image(2, 4, 8, 7)
    for mask in masks(block)[:: 11 if dilation == 1 else 40]:
        block.set_active(mask)
        expected = step(block, image)
        with fast.without(path):
            torch.testing.assert_close(step(block, image), expected, rtol=1e-9, atol=1e-9)


def test_all_of_them_can_be_off_at_once_and_are_on_again_afterwards():
    with fast.without(*fast.PATHS):
        with fast.without('stem'):
            pass
        assert not any(map(fast.is_on, fast.PATHS))
    assert all(map(fast.is_on, fast.PATHS))


def test_an_unknown_path_is_refused_and_the_known_ones_are_named():
    with (
        pytest.raises(ValueError, match=r"Unknown fast path 'steam'; known are recompute, strided, stem"),
        fast.without('steam'),
    ):
        pass
