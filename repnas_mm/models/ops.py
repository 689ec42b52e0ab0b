"""Convolution and average pooling with a padding of its own for each of the four sides."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

from . import fast

#: Pixels left of, right of, above and below an image; negative ones crop
Padding = tuple[int, int, int, int]


def pad_zeros(x: Tensor, padding: Padding) -> Tensor:
    """(N, C, H, W) with zeros around it; ``x`` itself where all of ``padding`` is 0."""
    return F.pad(x, padding) if any(padding) else x


def conv2d(
    x: Tensor,
    kernel: Tensor,
    stride: int,
    padding: Padding,
    groups: int,
    bias: Tensor | None = None,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    """Convolution of (N, in, H, W) with (out, in // groups, h, w) and zeros around the image."""
    left, right, top, bottom = padding
    if left != right or top != bottom or min(padding) < 0:
        x, left, top = pad_zeros(x, padding), 0, 0
    return F.conv2d(x, kernel, bias, stride, (top, left), dilation, groups)


def avg_pool2d(x: Tensor, size: int, stride: int, padding: Padding, dilation: int = 1) -> Tensor:
    """Average of ``size`` × ``size`` pixels of (N, C, H, W), each ``dilation`` apart; zeros around the image count."""
    x = pad_zeros(x, padding)
    # F.avg_pool2d takes about ten times as long as a convolution on the CPU, and knows no dilation
    if dilation == 1 and (x.device.type == 'cuda' or not fast.is_on('depthwise_pool')):
        return F.avg_pool2d(x, size, stride)
    return _DepthwisePool.apply(x, size, stride, dilation)


class _DepthwisePool(torch.autograd.Function):
    """Average pooling as a depth-wise convolution (Eq. 4).

    Autograd's own convolution would save the input for the gradient of a kernel that is constant.
    """

    @staticmethod
    def forward(ctx, x: Tensor, size: int, stride: int, dilation: int) -> Tensor:
        channels = x.shape[1]
        kernel = x.new_full((channels, 1, size, size), 1 / size**2)
        ctx.shape, ctx.dtype, ctx.window = x.shape, x.dtype, dict(stride=stride, dilation=dilation, groups=channels)
        ctx.save_for_backward(kernel)
        return F.conv2d(x, kernel, **ctx.window)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (kernel,) = ctx.saved_tensors
        x_grad = conv2d_input(ctx.shape, kernel.to(grad.dtype), grad, **ctx.window)
        return x_grad.to(ctx.dtype), None, None, None


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Context without mixed precision."""
    # which meta has not
    return nullcontext() if device.type == 'meta' else torch.autocast(device.type, enabled=False)
