"""The statistics of a 1×1 convolution's output, without that output, against torch's BN on it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from blocks import make_block, make_image, mask_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from repnas_mm.models.fast.moments import input_moments, norm_from_moments
from repnas_mm.search.memory import bytes_saved_for_backward


def norm_of(channels, momentum=0.1):
    norm = nn.BatchNorm2d(channels, momentum=momentum).double()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        tensor.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(2, 5)),
    groups=st.integers(1, 3),
    outputs=st.integers(1, 3),
    momentum=st.sampled_from([0.1, 0.5, None]),
    seed=st.integers(0, 99),
)
def test_folded_it_is_the_norm_of_the_convolution(shape, groups, outputs, momentum, seed):
    torch.manual_seed(seed)
    images, width, *size = shape
    x = torch.randn(images, groups * width, *size, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(groups * outputs, width, 1, 1, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(images, groups * outputs, *size, dtype=torch.float64)
    norm = norm_of(groups * outputs, momentum)
    plain = copy.deepcopy(norm)

    scale, shift = norm_from_moments(norm, kernel, input_moments(x, groups), update_stats=True)
    y = F.conv2d(x, kernel * scale.view(-1, 1, 1, 1), shift, groups=groups)
    expected = plain(F.conv2d(x, kernel, groups=groups))

    torch.testing.assert_close(y, expected)
    got = torch.autograd.grad((y * upstream).sum(), [x, kernel, *norm.parameters()])
    wanted = torch.autograd.grad((expected * upstream).sum(), [x, kernel, *plain.parameters()])
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(norm.state_dict(), plain.state_dict())


def test_gradients_of_moments_pass_finite_differences_twice():
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: input_moments(x, 2)[:2], x)
    torch.autograd.gradgradcheck(lambda x: input_moments(x, 2)[:2], x)


def test_a_large_mean_costs_no_digits():
    x = 1000 + torch.randn(4, 3, 16, 16)
    covariance = input_moments(x, 1)[1][0]
    expected = torch.cov(x.double().movedim(1, 0).flatten(1), correction=0)
    torch.testing.assert_close(covariance.double(), expected, rtol=1e-4, atol=1e-4)


def test_moments_of_half_precision_are_exact_and_keep_no_copy_of_it():
    x = torch.randn(2, 4, 16, 16).bfloat16().requires_grad_()
    assert bytes_saved_for_backward(lambda: input_moments(x, 1)[1], [x]) < 1000
    covariance = input_moments(x, 1)[1]
    torch.testing.assert_close(covariance, input_moments(x.float(), 1)[1])
    covariance.sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_under_autocast_moments_are_exact():
    x = torch.randn(2, 4, 8, 8)
    with torch.autocast('cpu', torch.bfloat16):
        mean, covariance, count = input_moments(x, 1)
    assert (mean.dtype, covariance.dtype, count) == (torch.float32, torch.float32, 128)
    torch.testing.assert_close(covariance, input_moments(x, 1)[1])


@pytest.mark.parametrize('channels', [(4, 4), (4, 8)], ids=['in=out', 'in<out'])
@pytest.mark.parametrize('names', [('1x1_kxk',), ('1x1_avg',), ('1x1_kxk', '1x1_avg')], ids='+'.join)
def test_a_strided_block_computes_what_it_does_with_a_norm_it_cannot_fold(names, channels):
    """Only torch's own BN is folded: a subclass, as SyncBN, may gather its statistics elsewhere."""
    block = make_block(*channels, stride=2)
    other = copy.deepcopy(block)
    for branch in other.branches.values():
        if hasattr(branch, 'inner_norm'):
            branch.inner_norm.__class__ = type('Subclass', (nn.BatchNorm2d,), {})
    results = []
    for b in (block, other):
        image = make_image(2, 4, 9, 8).requires_grad_()
        b.set_active(mask_of(b, names))
        y = b(image)
        y.square().sum().backward()
        results.append([y, image.grad, *(p.grad for p in b.parameters() if p.grad is not None), *b.buffers()])
    torch.testing.assert_close(*results)
