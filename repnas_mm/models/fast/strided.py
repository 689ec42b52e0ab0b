"""Composite branches of a block with a stride, without the large feature map between 1×1 and window.

The 1×1 and the inner BN become one 1×1 whose BN statistics follow from the moments of the block's input, so that it
can be merged into, or change places with, the window behind it. There the stride has left a quarter of the pixels.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops, reparam
from ..layer import Layer
from . import is_on
from .moments import input_moments, norm_from_moments


class FoldedPointwise(NamedTuple):
    """1×1 and inner BN of a composite branch as one 1×1 convolution, over the border value (`border_value`)."""

    #: (C, in // groups, 1, 1)
    kernel: Tensor
    #: (C,), less the border value
    bias: Tensor
    #: (C,)
    border: Tensor


def layers(branch, x: Tensor, kernel: Tensor | None, call) -> list[Layer] | None:
    """Layers to run in place of ``branch.layers``, or None where these are as good.

    Args:
        branch: `Branch`.
        x: Input of the block, (N, in, H, W).
        kernel: The block's shared kernel.
        call: `BlockCall`.
    """
    if branch.stride == 1 or not is_on('strided') or x[:, 0].numel() <= 1:  # for a BN to ignore or refuse, as it does
        return None
    # a SyncBN gathers its statistics elsewhere
    if type(getattr(branch, 'inner_norm', None)) is not nn.BatchNorm2d:
        return None
    if branch.name == '1x1_avg':
        return _pointwise_avg(branch, x, kernel, call)
    # merging the kernels costs out·in·in·K² multiply-adds, however few the pixels are
    if branch.name == '1x1_kxk' and branch.out_channels * branch.kernel_size**2 <= x[:, 0].numel():
        return [Layer(partial(_pointwise_full, branch, kernel, call))]
    return None


def fold_pointwise(branch, x: Tensor, kernel: Tensor | None, call) -> FoldedPointwise:
    """Fold the inner BN of a composite ``branch`` into the 1×1 before it, with gradients."""
    first = branch.pointwise_kernel(kernel)
    with ops.without_autocast(x.device):
        moments = None
        if branch.inner_norm.training:
            moments = call.once('input moments', lambda: input_moments(x, branch.groups))
        scale, shift = norm_from_moments(branch.inner_norm, first, moments, not call.second_pass)
        border = call.border(branch.inner_norm)
        return FoldedPointwise(first * scale.view(-1, 1, 1, 1), shift - border, border)


def merge_full(branch, first: FoldedPointwise, second: Tensor) -> tuple[Tensor, Tensor]:
    """Convolution of `1x1_kxk` over a channel of ones, (out, 1, K, K), and its bias, (out,).

    The bias of the 1×1 passes through the window inside the image and not outside of it, where the ones are padded
    with zeros.
    """
    with ops.without_autocast(second.device):
        over_ones = reparam.merge_pointwise(first.bias.view(-1, 1, 1, 1), second, branch.groups)
        return over_ones, branch.window_bias(second, first.border)


def merge_kernels(branch, first: FoldedPointwise, second: Tensor) -> Tensor:
    """Kernel of `1x1_kxk` as one convolution, (out, in // groups, K, K)."""
    with ops.without_autocast(second.device):
        return reparam.merge_pointwise(first.kernel, second, branch.groups)


def _pointwise_full(branch, kernel: Tensor | None, call, x: Tensor) -> Tensor:
    first, second = fold_pointwise(branch, x, kernel, call), branch.crop(kernel)
    over_ones, bias = merge_full(branch, first, second)
    merged = partial(merge_kernels, branch, first, second)
    shape = dict(stride=branch.stride, padding=branch.padding(call), dilation=branch.dilation)
    y = call.convolve(x, merged, groups=branch.groups, bias=bias, **shape)
    return y.add_(ops.conv2d(x.new_ones(1, 1, *x.shape[2:]), over_ones, groups=1, **shape))


def _pointwise_avg(branch, x: Tensor, kernel: Tensor | None, call) -> list[Layer]:
    first = fold_pointwise(branch, x, kernel, call)
    pool = partial(
        ops.avg_pool2d,
        size=branch.kernel_size,
        stride=branch.stride,
        padding=call.padding,
        dilation=branch.dilation,
    )
    with torch.no_grad():
        inside = pool(x.new_ones(1, 1, *x.shape[2:]))
    with ops.without_autocast(x.device):
        shift = first.bias.view(1, -1, 1, 1) * inside

    def pointwise(pooled: Tensor) -> Tensor:
        bias = first.border.to(first.kernel.dtype)
        return F.conv2d(pooled, first.kernel, bias, groups=branch.groups).add_(shift)

    # pooling and 1×1 may change places
    return [Layer(pool), Layer(pointwise, cheap=True)]
