"""Fusing is exact: for every subset of branches, one convolution computes what the block computes in eval mode."""

import copy

import pytest
import torch
import torch.nn.functional as F
from blocks import make_block, make_image, mask_of, masks, relative_error

kernel_sizes = pytest.mark.parametrize('kernel_size', [3, 5, 7])
strides = pytest.mark.parametrize('stride', [1, 2])
groupings = pytest.mark.parametrize('groups', [1, 2, 4], ids=['dense', 'groups', 'depthwise'])
sharing = pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
widths = pytest.mark.parametrize('out_channels', [4, 8], ids=['in=out', 'in<out'])


@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=['f64', 'f32'])
@kernel_sizes
@strides
@groupings
@sharing
@widths
def test_every_subset_fuses_exactly(kernel_size, stride, groups, share_weights, out_channels, dtype, tolerance):
    block = make_block(4, out_channels, kernel_size, stride, groups, dtype, share_weights=share_weights).eval()
    x = make_image(2, 4, 6, 7, dtype=dtype)
    subsets = masks(block)
    assert len(subsets) == (127 if stride == 1 and out_channels == 4 else 63)
    with torch.no_grad():
        for mask in subsets:
            block.set_active(mask)
            kernel, bias = block.get_equivalent_kernel_bias()
            assert kernel.dtype == bias.dtype == dtype
            fused = F.conv2d(x, kernel, bias, stride, kernel_size // 2, groups=groups)
            assert relative_error(fused, block(x)) <= tolerance, block.active_branches


@pytest.mark.parametrize('kernel_size, dilation', [(3, 2), (5, 3)])
@strides
@groupings
@sharing
def test_every_subset_of_a_dilated_block_fuses_into_one_dilated_convolution(
    kernel_size, dilation, stride, groups, share_weights
):
    block = make_block(4, 4, kernel_size, stride, groups, dilation=dilation, share_weights=share_weights).eval()
    x, padding = make_image(2, 4, 9, 11), dilation * (kernel_size // 2)
    with torch.no_grad():
        for mask in masks(block):
            block.set_active(mask)
            fused = F.conv2d(x, *block.get_equivalent_kernel_bias(), stride, padding, dilation, groups)
            assert relative_error(fused, block(x)) <= 1e-12, block.active_branches
        expected = block(x)
        block.switch_to_deploy()
        assert block.reparam.dilation == (dilation, dilation) and relative_error(block(x), expected) <= 1e-12


@kernel_sizes
@strides
@groupings
@sharing
@widths
def test_subnet_and_deploy_form_compute_what_the_search_form_computed(
    kernel_size, stride, groups, share_weights, out_channels
):
    block = make_block(4, out_channels, kernel_size, stride, groups, share_weights=share_weights).eval()
    x = make_image(2, 4, 6, 7)
    with torch.no_grad():
        for mask in masks(block)[::20]:
            block.set_active(mask)
            expected, changing = block(x), copy.deepcopy(block)
            changing.switch_to_subnet()
            assert tuple(changing.branches) == block.active_branches
            assert torch.equal(changing(x), expected)
            changing.switch_to_deploy()
            assert [name for name, _ in changing.named_parameters()] == ['reparam.weight', 'reparam.bias']
            assert relative_error(changing(x), expected) <= 1e-12, block.active_branches


def test_in_larger_than_out_and_odd_channels_fuse_exactly():
    x = make_image(2, 6, 6, 7)
    for out_channels, groups in ((2, 2), (3, 3), (5, 1), (9, 3)):
        block = make_block(6, out_channels, groups=groups).eval()
        kernel, bias = block.get_equivalent_kernel_bias()
        assert relative_error(F.conv2d(x, kernel, bias, padding=1, groups=groups), block(x)) <= 1e-12


def test_images_smaller_than_the_kernel_fuse_exactly():
    block = make_block(kernel_size=7).eval()
    kernel, bias = block.get_equivalent_kernel_bias()
    for size in ((1, 1), (2, 3), (1, 9)):
        x = torch.randn(2, 4, *size, dtype=torch.float64)
        assert relative_error(F.conv2d(x, kernel, bias, padding=3), block(x)) <= 1e-12


def test_reading_the_equivalent_kernel_changes_nothing():
    block = make_block().train()
    before = copy.deepcopy(block.state_dict())
    kernel, bias = block.get_equivalent_kernel_bias()
    assert not kernel.requires_grad and not bias.requires_grad
    assert block.training and not block.deploy
    assert all(torch.equal(value, before[key]) for key, value in block.state_dict().items())


@sharing
def test_float32_parameters_are_fused_in_float64(share_weights):
    block = make_block(dtype=torch.float32, share_weights=share_weights)
    exact = copy.deepcopy(block).double().get_equivalent_kernel_bias()
    for got, expected in zip(block.get_equivalent_kernel_bias(), exact):
        assert torch.equal(got, expected.float())


def test_a_block_that_trained_fuses_exactly():
    block = make_block()
    optimizer = torch.optim.SGD(block.parameters(), 0.1)
    for seed in range(3):
        optimizer.zero_grad()
        block(make_image(4, 4, 6, 7, seed=seed)).square().mean().backward()
        optimizer.step()
    x, expected = make_image(2, 4, 6, 7, seed=9), None
    expected = block.eval()(x)
    block.switch_to_deploy()
    assert relative_error(block(x), expected) <= 1e-12


def test_the_activation_stays_behind_the_fused_convolution():
    block = make_block(act_cfg=dict(type='ReLU', inplace=True)).eval()
    x = make_image(2, 4, 6, 7)
    expected = block(x)
    block.switch_to_deploy()
    assert (expected == 0).any()
    assert relative_error(block(x), expected) <= 1e-12


@pytest.mark.parametrize('form', ['search', 'subnet', 'deploy'])
def test_get_equivalent_kernel_bias_is_the_same_in_every_form(form):
    block = make_block()
    block.set_active(mask_of(block, ('kxk', '1x1_avg', 'skip')))
    expected = block.get_equivalent_kernel_bias()
    if form != 'search':
        block.switch_to_subnet()
    if form == 'deploy':
        block.switch_to_deploy()
    assert all(map(torch.equal, block.get_equivalent_kernel_bias(), expected))
