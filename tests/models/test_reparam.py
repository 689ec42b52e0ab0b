"""The (kernel, bias) algebra against the convolutions it stands for, in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import eq5_crop

from repnas_mm.models import reparam

quick = settings(max_examples=30, deadline=None, derandomize=True, database=None)
few = st.integers(1, 3)  # groups, and channels a group
sizes = st.sampled_from([3, 5, 7])
odd = st.sampled_from([1, 3, 5, 7])
seeds = st.integers(0, 2**16)


def randn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('k', [3, 5, 7])
def test_crop_kernel_takes_the_rows_and_columns_of_eq_5(k):
    kernel = torch.arange(2 * 3 * k * k).reshape(2, 3, k, k)
    for height in range(1, k + 1, 2):
        for width in range(1, k + 1, 2):
            assert torch.equal(reparam.crop_kernel(kernel, height, width), eq5_crop(kernel, height, width))


def test_training_a_crop_trains_the_kernel():
    kernel = torch.zeros(2, 2, 5, 5, requires_grad=True)
    reparam.crop_kernel(kernel, 1, 3).sum().backward()
    assert kernel.grad[0, 0].tolist() == [[0] * 5, [0] * 5, [0, 1, 1, 1, 0], [0] * 5, [0] * 5]


@quick
@given(size=odd, groups=few, inputs=few, middle=few, outputs=few, seed=seeds)
def test_merge_pointwise_is_the_sum_over_what_lies_between(size, groups, inputs, middle, outputs, seed):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(groups * middle, inputs, 1, 1, generator=generator, dtype=torch.float64)
    second = torch.randn(groups * outputs, middle, size, size, generator=generator, dtype=torch.float64)
    merged = reparam.merge_pointwise(first, second, groups)
    assert merged.shape == (groups * outputs, inputs, size, size)
    for o in range(groups * outputs):
        for i in range(inputs):
            between = [o // outputs * middle + m for m in range(middle)]
            expected = sum(second[o, m] * first[between[m], i, 0, 0] for m in range(middle))
            torch.testing.assert_close(merged[o, i], expected)


@quick
@given(height=odd, width=odd, groups=few, inputs=few, outputs=few, stride=st.integers(1, 2), seed=seeds)
def test_a_padded_kernel_convolves_as_the_small_one(height, width, groups, inputs, outputs, stride, seed):
    x = randn(2, groups * inputs, 6, 7, seed=seed)
    kernel = randn(groups * outputs, inputs, height, width, seed=seed + 1)
    padded = reparam.pad_kernel(kernel, 7)
    assert_same(
        F.conv2d(x, padded, None, stride, 3, groups=groups),
        F.conv2d(x, kernel, None, stride, (height // 2, width // 2), groups=groups),
    )


@quick
@given(size=odd, groups=few, inputs=few, outputs=few, stride=st.integers(1, 2), seed=seeds)
def test_fuse_norm_is_the_convolution_and_its_batch_norm(size, groups, inputs, outputs, stride, seed):
    channels = groups * outputs
    x = randn(2, groups * inputs, 8, 9, seed=seed)
    kernel = randn(channels, inputs, size, size, seed=seed + 1)
    gamma, beta, mean, log_var = randn(4, channels, seed=seed + 2)
    scale = gamma / (log_var.exp() + 1e-5).sqrt()
    fused = reparam.fold_norm(kernel, scale, beta - mean * scale)
    assert_same(
        F.conv2d(x, *fused, stride, size // 2, groups=groups),
        F.batch_norm(
            F.conv2d(x, kernel, None, stride, size // 2, groups=groups), mean, log_var.exp(), gamma, beta, eps=1e-5
        ),
    )


@quick
@given(size=sizes, groups=few, inputs=few, middle=few, outputs=few, stride=st.integers(1, 2), seed=seeds)
def test_fuse_sequence_is_a_1x1_and_the_kxk_behind_it(size, groups, inputs, middle, outputs, stride, seed):
    x = randn(2, groups * inputs, 6, 7, seed=seed)
    first = randn(groups * middle, inputs, 1, 1, seed=seed + 1), randn(groups * middle, seed=seed + 2)
    second = randn(groups * outputs, middle, size, size, seed=seed + 3), randn(groups * outputs, seed=seed + 4)
    fused = reparam.fuse_sequence(first, second, groups)
    # zeros padded before the 1×1 reach the window as the first conv's answer to zero: border padding
    between = F.conv2d(F.pad(x, [size // 2] * 4), *first, groups=groups)
    assert_same(
        F.conv2d(x, *fused, stride, size // 2, groups=groups), F.conv2d(between, *second, stride, groups=groups)
    )


@pytest.mark.parametrize('size', [3, 5, 7])
@pytest.mark.parametrize('groups', [1, 2, 4])
@pytest.mark.parametrize('stride', [1, 2])
def test_avg_pool_kernel_pools(size, groups, stride):
    x = randn(2, 4, 9, 9, seed=0)
    kernel = reparam.avg_pool_kernel(4, size, groups, dtype=torch.float64)
    assert kernel.shape == (4, 4 // groups, size, size)
    assert_same(F.conv2d(x, kernel, stride=stride, groups=groups), F.avg_pool2d(x, size, stride))


@pytest.mark.parametrize('size', [1, 3, 5, 7])
@pytest.mark.parametrize('groups', [1, 2, 3, 6])
def test_identity_kernel_copies_every_channel(size, groups):
    x = randn(2, 6, 5, 4, seed=0)
    kernel = reparam.identity_kernel(6, groups, size, dtype=torch.float64)
    assert torch.equal(F.conv2d(x, kernel, padding=size // 2, groups=groups), x)


@quick
@given(number=st.integers(1, 7), size=sizes, seed=seeds)
def test_add_kernels_is_the_sum_of_parallel_convolutions(number, size, seed):
    x = randn(2, 3, 6, 7, seed=seed)
    pairs = [(randn(4, 3, size, size, seed=seed + i), randn(4, seed=seed - i - 1)) for i in range(number)]
    assert_same(
        F.conv2d(x, *reparam.add_kernels(pairs), padding=size // 2),
        sum(F.conv2d(x, *pair, padding=size // 2) for pair in pairs),
    )


def test_arguments_stay_as_they_are():
    first, second = (randn(4, 2, 1, 1, seed=0), randn(4, seed=1)), (randn(4, 2, 3, 3, seed=2), randn(4, seed=3))
    arguments = [*first, *second]
    before = [t.clone() for t in arguments]
    reparam.fold_norm(*first, second[1])
    reparam.fuse_sequence(first, second, 2)
    reparam.add_kernels([second, second])
    reparam.pad_kernel(first[0], 3).zero_()
    assert all(map(torch.equal, arguments, before))
