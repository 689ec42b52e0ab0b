"""Structural re-parameterization as algebra on (kernel, bias) pairs: Eq. 1-5 of the paper, no modules.

A kernel is a tensor of shape (out, in // groups, H, W), a bias one of shape (out,). Nothing here changes its
arguments, knows about training or picks a dtype: callers who want exact sums pass float64.
"""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

#: (kernel, bias)
Pair = tuple[Tensor, Tensor]


def crop_kernel(kernel: Tensor, height: int, width: int) -> Tensor:
    """The ``height`` × ``width`` center of a kernel (Eq. 5), as a view. Odd sizes."""
    if kernel.shape[2:] == (height, width):
        return kernel
    rows, cols = (kernel.shape[2] - height) // 2, (kernel.shape[3] - width) // 2
    return kernel[:, :, rows : rows + height, cols : cols + width]


def pad_kernel(kernel: Tensor, size: int) -> Tensor:
    """A kernel of odd height and width, zero-padded to ``size`` × ``size`` around the same center (for Eq. 2)."""
    rows, cols = (size - kernel.shape[2]) // 2, (size - kernel.shape[3]) // 2
    return F.pad(kernel, (cols, cols, rows, rows))


def fold_norm(kernel: Tensor, scale: Tensor, shift: Tensor) -> Pair:
    """Fold y -> scale·y + shift into the bias-free conv before it (Eq. 1).

    For a BN, ``scale`` = γ/σ and ``shift`` = β - μγ/σ, both of shape (out,).
    """
    return kernel * scale.reshape(-1, 1, 1, 1), shift


def fuse_sequence(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], groups: int = 1) -> Pair:
    """A 1×1 conv and the K×K conv behind it, both in ``groups`` groups, as one K×K conv (Eq. 3).

    Exact when whatever is padded between the two is the first conv's bias, that is, its output for a zero pixel.

    Args:
        first: kernel (mid, in // groups, 1, 1) and bias (mid,).
        second: kernel (out, mid // groups, K, K) and bias (out,).

    Returns:
        kernel (out, in // groups, K, K) and bias (out,).
    """
    (kernel1, bias1), (kernel2, bias2) = first, second
    return merge_pointwise(kernel1, kernel2, groups), constant_response(kernel2, bias1, groups) + bias2


def merge_pointwise(first: Tensor, second: Tensor, groups: int = 1) -> Tensor:
    """Kernel (mid, in // groups, 1, 1) and the kernel behind it (out, mid // groups, K, K), as one: Eq. 3 for kernels.

    Returns:
        (out, in // groups, K, K).
    """
    width, size = first.shape[1], second.shape[2:]
    # a convolution of kernels: its images are the second's outputs, its pixels the second's window
    images = second.view(groups, -1, *second.shape[1:]).transpose(0, 1).flatten(1, 2)
    kernel = first.view(groups, -1, width).mT.reshape(groups * width, -1, 1, 1)
    merged = F.conv2d(images, kernel, groups=groups)
    return merged.view(-1, groups, width, *size).transpose(0, 1).flatten(0, 1)


def constant_response(kernel: Tensor, constant: Tensor, groups: int = 1) -> Tensor:
    """Output (out,) of a conv for an image of one value a channel, (in,), away from its border."""
    by_group = kernel.sum((2, 3)).view(groups, -1, kernel.shape[1])
    return (by_group @ constant.view(groups, -1, 1)).flatten()


def identity_kernel(channels: int, groups: int = 1, size: int = 1, **factory) -> Tensor:
    """The ``size`` × ``size`` kernel that copies each of ``channels`` channels, in ``groups`` groups."""
    identity = torch.eye(channels // groups, **factory).repeat(groups, 1)
    return pad_kernel(identity[:, :, None, None], size)


def avg_pool_kernel(channels: int, size: int, groups: int = 1, **factory) -> Tensor:
    """``size`` × ``size`` average pooling as a conv in ``groups`` groups (Eq. 4)."""
    identity = identity_kernel(channels, groups, 1, **factory)
    return (identity / size**2).expand(-1, -1, size, size).contiguous()


def add_kernels(pairs: list[Pair]) -> Pair:
    """Parallel convs of one kernel size whose outputs are added, as one conv (Eq. 2)."""
    kernels, biases = zip(*pairs)
    # not torch.stack, whose backward gives all of them views of one memory: scaled in place there, once for each
    return reduce(torch.add, kernels), reduce(torch.add, biases)
