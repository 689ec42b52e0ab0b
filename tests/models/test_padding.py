"""Any padding of the K×K window: what every branch computes, and that fusing stays exact."""

import pytest
import torch
import torch.nn.functional as F
from blocks import make_image, mask_of, randomize, relative_error
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from reference import Reference
from torch import nn

from repnas_mm.models import ODBBConv2d


@st.composite
def shapes(draw, adaptive=False):
    """Arguments of a convolution, and an image at least as large as its window needs."""
    size, dilation = draw(st.sampled_from([(3, 1), (5, 1), (7, 1), (3, 2), (3, 3), (5, 2)]))
    k = dilation * (size - 1) + 1
    pad = st.integers(0, k)
    padding = 0 if adaptive else draw(st.one_of(pad, st.tuples(pad, pad)))
    rows, cols = (k, k) if adaptive else padding if isinstance(padding, tuple) else (padding, padding)
    arguments = dict(
        in_channels=4,
        out_channels=draw(st.sampled_from([4, 8])),
        kernel_size=size,
        stride=draw(st.integers(1, 3)),
        padding=padding,
        dilation=dilation,
        groups=draw(st.sampled_from([1, 2, 4])),
        share_weights=draw(st.booleans()),
        adaptive_padding=adaptive,
    )
    height, width = (draw(st.integers(max(1, k - 2 * p), k + 5)) for p in (rows, cols))
    return arguments, (height, width)


def make(arguments):
    return randomize(ODBBConv2d(**arguments)).double()


def image(height, width):
    """Random, with a bright frame, on which wrong padding shows."""
    x = torch.randn(2, 4, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    frame = torch.ones(height, width, dtype=torch.float64)
    frame[1:-1, 1:-1] = 0.01
    return x * frame


def branch_subset(draw, block):
    mask = draw.draw(st.lists(st.booleans(), min_size=len(block.candidates), max_size=len(block.candidates)))
    assume(any(mask))
    return mask


def same_padding(length, k, stride):
    """Left and right pixels of TensorFlow's "same"; an odd one goes right."""
    windows = (length + stride - 1) // stride
    missing = max(0, stride * (windows - 1) + k - length)
    return missing // 2, missing - missing // 2


def plain(arguments):
    """The ordinary convolution with the same arguments."""
    arguments = {key: value for key, value in arguments.items() if key not in ('share_weights', 'adaptive_padding')}
    return nn.Conv2d(**arguments).double()


# ---------------------------------------------------------------- eval mode


@settings(deadline=None, max_examples=60)
@given(shapes(), st.data())
def test_any_branches_under_any_padding_equal_one_convolution(shape, data):
    arguments, size = shape
    block, x = make(arguments).eval(), image(*size)
    block.set_active(branch_subset(data, block))
    kernel, bias = block.get_equivalent_kernel_bias()
    y = block(x)
    shape = {name: arguments[name] for name in ('stride', 'padding', 'dilation', 'groups')}
    fused = F.conv2d(x, kernel, bias, **shape)
    assert y.shape == plain(arguments)(x).shape
    assert relative_error(y, fused) <= 1e-12


@settings(deadline=None, max_examples=40)
@given(shapes(adaptive=True), st.data())
def test_any_branches_under_adaptive_padding_equal_one_convolution(shape, data):
    arguments, size = shape
    block, x = make(arguments).eval(), image(*size)
    block.set_active(branch_subset(data, block))
    names = ('in_channels', 'out_channels', 'kernel_size', 'stride', 'dilation', 'groups')
    fused = Conv2dAdaptivePadding(**{name: arguments[name] for name in names})
    fused.weight.data, fused.bias.data = block.get_equivalent_kernel_bias()
    assert block(x).shape == fused(x).shape
    assert relative_error(block(x), fused(x)) <= 1e-12


@pytest.mark.parametrize('padding', [0, 1, 2, 3, (0, 2), (3, 1)])
@pytest.mark.parametrize('stride', [1, 2, 3])
def test_each_branch_alone_fuses_under_each_padding_of_a_3x3_window(padding, stride):
    block = randomize(ODBBConv2d(4, 4, 3, stride, padding)).double().eval()
    x = make_image(2, 4, 7, 8)
    for name in block.candidates:
        block.set_active(mask_of(block, [name]))
        kernel, bias = block.get_equivalent_kernel_bias()
        assert relative_error(block(x), F.conv2d(x, kernel, bias, stride, padding)) <= 1e-12, name


def test_a_pair_is_rows_then_columns():
    block = randomize(ODBBConv2d(4, 4, 3, padding=(0, 2))).double()
    assert block(image(6, 6)).shape == (2, 4, 4, 8)


@pytest.mark.parametrize('size', [(8, 8), (7, 7), (8, 7), (1, 2)])
@pytest.mark.parametrize('stride', [1, 2, 3])
def test_adaptive_padding_gives_one_pixel_a_stride(size, stride):
    block = ODBBConv2d(4, 4, 5, stride, adaptive_padding=True).double()
    assert block(image(*size)).shape[2:] == tuple(-(-n // stride) for n in size)


# ---------------------------------------------------------------- training mode


def assert_same(got, expected, what):
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9, msg=lambda m: f'{what}: {m}')


def assert_trains_as_the_reference(block, size, padding):
    """Outputs, gradients and statistics of each branch alone."""
    state = {key: value.clone() for key, value in block.state_dict().items()}
    for name in block.candidates:
        block.load_state_dict(state)
        block.set_active(mask_of(block, [name]))
        reference = Reference(block, padding)
        x, reference_x = (image(*size).requires_grad_() for _ in range(2))
        y, expected = block(x), reference.branches(reference_x, [name], training=True)[name]
        assert_same(y, expected, name)

        upstream = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        block.zero_grad()
        y.backward(upstream)
        expected.backward(upstream)
        assert_same(x.grad, reference_x.grad, (name, 'input'))
        for key, parameter in block.named_parameters():
            gradient = reference.parameters[key].grad
            assert (parameter.grad is None) == (gradient is None), (name, key)
            if gradient is not None:
                assert_same(parameter.grad, gradient, (name, key))
        for key, statistic in reference.statistics.items():
            assert_same(block.get_buffer(key), statistic, (name, key))


@settings(deadline=None, max_examples=25)
@given(shapes())
def test_each_branch_trains_as_its_window_on_the_padded_image(shape):
    arguments, size = shape
    rows, cols = plain(arguments).padding
    assume(plain(arguments)(image(*size))[0, 0].numel() > 1)
    assert_trains_as_the_reference(make(arguments).train(), size, (cols, cols, rows, rows))


@settings(deadline=None, max_examples=15)
@given(shapes(adaptive=True))
def test_each_branch_trains_as_its_window_on_the_adaptively_padded_image(shape):
    arguments, size = shape
    k, stride = arguments['dilation'] * (arguments['kernel_size'] - 1) + 1, arguments['stride']
    (top, bottom), (left, right) = (same_padding(length, k, stride) for length in size)
    assume(-(-size[0] // stride) * -(-size[1] // stride) > 1)
    assert_trains_as_the_reference(make(arguments).train(), size, (left, right, top, bottom))


@pytest.mark.parametrize('padding', [0, (1, 3)])
@pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
@pytest.mark.parametrize('out_channels', [4, 128], ids=['block', 'stem'])
def test_all_branches_together_train_as_their_sum(padding, share_weights, out_channels):
    block = randomize(ODBBConv2d(4, out_channels, 5, padding=padding, share_weights=share_weights)).double()
    rows, cols = block.padding
    reference, x = Reference(block, (cols, cols, rows, rows)), image(7, 6)
    expected = sum(reference.branches(x, block.candidates, training=True).values())
    assert_same(block(x), expected, padding)


@pytest.mark.parametrize('out_channels', [4, 48], ids=['block', 'stem'])
def test_recomputation_keeps_padding_and_borders(out_channels):
    results = []
    for with_cp in (False, True):
        block = randomize(ODBBConv2d(4, out_channels, 3, 2, adaptive_padding=True, with_cp=with_cp)).double()
        x = image(7, 8).requires_grad_()
        block(x).square().sum().backward()
        results.append([x.grad, block.branches['kxk'].weight.grad, *block.buffers()])
    assert all(map(torch.equal, *results))
