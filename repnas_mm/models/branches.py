"""The seven branches of an optimal diverse branch block (paper 3.2, Fig. 3), one class each.

Every branch is a linear map followed by its own BN, and keeps one contract:

* ``exists(in_channels, out_channels, stride)``: whether a block of this shape has the branch at all;
* ``forward(x, kernel, gate, call)``: its output, gated; ``kernel`` is the block's shared K×K kernel, or None where
  the branch owns its weights;
* ``equivalent(kernel)``: the K×K kernel and bias, in float64, that compute the same in eval mode.

The order of the classes below is the order of the branches everywhere.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..search.space import register_branch
from . import reparam
from .norm import border_value, build_norm, call_norm, scale_and_shift


class BlockCall:
    """What one forward call of a block shares between its branches, and with its own recomputation.

    ``padding`` is what the K×K window pads with zeros: (left, right, top, bottom) pixels. ``recompute`` is False in the
    first pass and True when activation checkpointing runs the same call again: then BN statistics stay as they are and
    the borders of the first pass are padded again. ``pointwise`` is the output of the shared 1×1 convolution. A pass is
    a ``with`` block, because torch ends a recomputation early, by an exception.
    """

    def __init__(self, padding: tuple[int, int, int, int]):
        self.padding = padding
        self.recompute = False
        self.borders: dict[str, Tensor] = {}
        self.pointwise: Tensor | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_) -> None:
        self.recompute, self.pointwise = True, None


class Branch(nn.Module):
    """Base of all branches: ``gate * BN(linear(x))``.

    Args:
        in_channels, out_channels, kernel_size, stride, groups: The block's.
        norm_cfg (dict): Config of the BN.
        shared (bool): Whether convolution weights are center crops of the block's kernel (Eq. 5).
    """

    name: str
    uses_kernel = True
    # (height, width) of the branch's own convolution, of the shared kernel's crop; 'K' is the block's kernel size
    window: tuple = ('K', 'K')

    def __init__(self, in_channels, out_channels, kernel_size, stride, groups, norm_cfg, shared):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.groups = kernel_size, stride, groups
        self.size = tuple(kernel_size if n == 'K' else n for n in self.window)
        if self.uses_kernel and not shared:
            self.weight = new_kernel(out_channels, in_channels // groups, *self.size)
        else:
            self.register_parameter('weight', None)
        self.norm = build_norm(norm_cfg, out_channels)

    @staticmethod
    def exists(in_channels: int, out_channels: int, stride: int) -> bool:
        return True

    def crop(self, kernel: Tensor | None) -> Tensor:
        """This branch's convolution kernel: its own, or the center of the shared one."""
        return self.weight if kernel is None else reparam.crop_kernel(kernel, *self.size)

    def linear(self, x: Tensor, kernel: Tensor | None, call: BlockCall) -> Tensor:
        """What comes before the last BN: (N, in, H, W) -> (N, out, H / stride, W / stride)."""
        # A crop is a strided view, on which the CPU's channels-last convolution crashes.
        return conv2d(x, self.crop(kernel).contiguous(), self.stride, self.padding(call), self.groups)

    def padding(self, call: BlockCall) -> tuple[int, int, int, int]:
        """Left, right, top and bottom pixels that center this branch's window where the K×K one is; negative crops."""
        rows, cols = ((self.kernel_size - n) // 2 for n in self.size)
        left, right, top, bottom = call.padding
        return left - cols, right - cols, top - rows, bottom - rows

    def linear_equivalent(self, kernel: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Kernel (K×K) and bias (or None for zero) of `linear`, in eval mode, float64."""
        return reparam.pad_kernel(self.crop(kernel), self.kernel_size), None

    def forward(self, x: Tensor, kernel: Tensor | None, gate: Tensor | None, call: BlockCall) -> Tensor:
        return call_norm(self.norm, self.linear(x, kernel, call), gate, not call.recompute)

    @torch.no_grad()
    def equivalent(self, kernel: Tensor | None) -> tuple[Tensor, Tensor]:
        """(out, in // groups, K, K) kernel and (out,) bias that equal this branch in eval mode, float64."""
        kernel, bias = self.linear_equivalent(None if kernel is None else kernel.double())
        scale, shift = scale_and_shift(self.norm)
        kernel, shift = reparam.fuse_norm(kernel.double(), scale, shift)
        return kernel, shift if bias is None else shift + scale * bias

    def padded_norm(self, norm: nn.Module, x: Tensor, call: BlockCall) -> Tensor:
        """The inner BN, then the K×K window's padding, of this BN's answer to a zero pixel (border padding).

        A zero pad there would not fuse: the bias of the first conv has to pass through the padding too.
        """
        x = call_norm(norm, x, update_stats=not call.recompute)
        if self.name not in call.borders:
            call.borders[self.name] = border_value(norm)
        return pad_border(x, call.borders[self.name], call.padding)


@register_branch('1x1')
class PointwiseBranch(Branch):
    """1×1 convolution."""

    window = (1, 1)

    def linear(self, x, kernel, call):
        if self.stride > 1 or kernel is None:
            return super().linear(x, kernel, call)
        return pad_zeros(shared_pointwise(self, x, kernel, call), self.padding(call))


@register_branch('kxk')
class FullBranch(Branch):
    """K×K convolution, the main branch."""


@register_branch('1x1_kxk')
class PointwiseFullBranch(Branch):
    """1×1 convolution (in -> in), BN, border padding, K×K convolution.

    The 1×1 is the identity plus the center of the shared kernel where in = out, else plus a parameter of its own that
    starts at zero.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride, groups, norm_cfg, shared):
        super().__init__(in_channels, out_channels, kernel_size, stride, groups, norm_cfg, shared)
        inherits = shared and in_channels == out_channels
        delta = None if inherits else nn.Parameter(torch.zeros(in_channels, in_channels // groups, 1, 1))
        self.register_parameter('delta', delta)
        self.inner_norm = build_norm(norm_cfg, in_channels)

    def inner_kernel(self, kernel: Tensor | None) -> Tensor:
        """The 1×1 kernel (in, in // groups, 1, 1)."""
        delta = reparam.crop_kernel(kernel, 1, 1) if self.delta is None else self.delta
        identity = reparam.identity_kernel(self.in_channels, self.groups, dtype=delta.dtype, device=delta.device)
        return delta + identity

    def linear(self, x, kernel, call):
        x = F.conv2d(x, self.inner_kernel(kernel), groups=self.groups)
        x = self.padded_norm(self.inner_norm, x, call)
        return F.conv2d(x, self.crop(kernel).contiguous(), None, self.stride, 0, 1, self.groups)

    def linear_equivalent(self, kernel):
        first = reparam.fuse_norm(self.inner_kernel(kernel).double(), *scale_and_shift(self.inner_norm))
        second = self.crop(kernel).double()
        return reparam.fuse_sequence(first, (second, second.new_zeros(self.out_channels)), self.groups)


@register_branch('1x1_avg')
class PointwiseAvgBranch(Branch):
    """1×1 convolution, BN, border padding, K×K average pooling."""

    window = (1, 1)

    def __init__(self, in_channels, out_channels, kernel_size, stride, groups, norm_cfg, shared):
        super().__init__(in_channels, out_channels, kernel_size, stride, groups, norm_cfg, shared)
        self.inner_norm = build_norm(norm_cfg, out_channels)

    def linear(self, x, kernel, call):
        x = F.conv2d(x, self.weight, groups=self.groups) if kernel is None else shared_pointwise(self, x, kernel, call)
        return F.avg_pool2d(self.padded_norm(self.inner_norm, x, call), self.kernel_size, self.stride)

    def linear_equivalent(self, kernel):
        first = reparam.fuse_norm(self.crop(kernel).double(), *scale_and_shift(self.inner_norm))
        pool = reparam.avg_pool_kernel(
            self.out_channels, self.kernel_size, self.groups, dtype=torch.float64, device=first[0].device
        )
        return reparam.fuse_sequence(first, (pool, pool.new_zeros(self.out_channels)), self.groups)


@register_branch('1xk')
class HorizontalBranch(Branch):
    """1×K convolution."""

    window = (1, 'K')


@register_branch('kx1')
class VerticalBranch(Branch):
    """K×1 convolution."""

    window = ('K', 1)


@register_branch('skip')
class SkipBranch(Branch):
    """Identity."""

    uses_kernel = False
    window = (1, 1)

    @staticmethod
    def exists(in_channels: int, out_channels: int, stride: int) -> bool:
        return stride == 1 and in_channels == out_channels

    def linear(self, x, kernel, call):
        return pad_zeros(x, self.padding(call))

    def linear_equivalent(self, kernel):
        weight = self.norm.weight
        return reparam.identity_kernel(
            self.out_channels, self.groups, self.kernel_size, dtype=torch.float64, device=weight.device
        ), None


def new_kernel(*shape: int) -> nn.Parameter:
    """A convolution kernel, initialized as mmpretrain's RepVGG does (Kaiming normal, fan out)."""
    kernel = nn.Parameter(torch.empty(*shape))
    nn.init.kaiming_normal_(kernel, mode='fan_out', nonlinearity='relu')
    return kernel


def shared_pointwise(branch: Branch, x: Tensor, kernel: Tensor, call: BlockCall) -> Tensor:
    """x under the shared kernel's center at stride 1, which `1x1` and the head of `1x1_avg` compute once together."""
    if call.pointwise is None:
        call.pointwise = F.conv2d(x, reparam.crop_kernel(kernel, 1, 1).contiguous(), groups=branch.groups)
    return call.pointwise


def conv2d(x: Tensor, kernel: Tensor, stride: int, padding: tuple[int, int, int, int], groups: int) -> Tensor:
    """Convolution with (left, right, top, bottom) pixels of zero padding, where negative ones crop."""
    left, right, top, bottom = padding
    if left != right or top != bottom or min(padding) < 0:
        x, left, top = pad_zeros(x, padding), 0, 0
    return F.conv2d(x, kernel, None, stride, (top, left), 1, groups)


def pad_zeros(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """(N, C, H, W) with (left, right, top, bottom) pixels of zeros, where negative ones crop; itself if all are 0."""
    return F.pad(x, padding) if any(padding) else x


def pad_border(x: Tensor, border: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """(N, C, H, W) with (left, right, top, bottom) pixels of ``border`` (C,), a value a channel."""
    n, c, h, w = x.shape
    left, right, top, bottom = padding
    padded = border.to(x.dtype).view(1, c, 1, 1).expand(n, c, h + top + bottom, w + left + right).clone()
    padded[:, :, top : top + h, left : left + w] = x
    return padded
