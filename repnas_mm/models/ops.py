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


def conv2d(x: Tensor, kernel: Tensor, stride: int, padding: Padding, groups: int, bias: Tensor | None = None) -> Tensor:
    """Convolution of (N, in, H, W) with (out, in // groups, h, w) and zeros around the image."""
    left, right, top, bottom = padding
    if left != right or top != bottom or min(padding) < 0:
        x, left, top = pad_zeros(x, padding), 0, 0
    return F.conv2d(x, kernel, bias, stride, (top, left), 1, groups)


def avg_pool2d(x: Tensor, size: int, stride: int, padding: Padding) -> Tensor:
    """Average pooling of (N, C, H, W) over ``size`` × ``size`` pixels, where the zeros around the image count."""
    x = pad_zeros(x, padding)
    # F.avg_pool2d takes about ten times as long as a convolution on the CPU
    if x.device.type == 'cuda' or not fast.is_on('depthwise_pool'):
        return F.avg_pool2d(x, size, stride)
    return _DepthwisePool.apply(x, size, stride)


class _DepthwisePool(torch.autograd.Function):
    """Average pooling as a depth-wise convolution (Eq. 4).

    Autograd's own convolution would save the input for the gradient of a kernel that is constant.
    """

    @staticmethod
    def forward(ctx, x: Tensor, size: int, stride: int) -> Tensor:
        channels = x.shape[1]
        kernel = x.new_full((channels, 1, size, size), 1 / size**2)
        ctx.shape, ctx.dtype, ctx.stride = x.shape, x.dtype, stride
        ctx.save_for_backward(kernel)
        return F.conv2d(x, kernel, None, stride, groups=channels)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (kernel,) = ctx.saved_tensors
        x_grad = conv2d_input(ctx.shape, kernel.to(grad.dtype), grad, ctx.stride, groups=ctx.shape[1])
        return x_grad.to(ctx.dtype), None, None


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Context without mixed precision."""
    known = torch.amp.is_autocast_available(device.type)  # not on meta
    return torch.autocast(device.type, enabled=False) if known else nullcontext()
