"""The seven branches of an optimal diverse branch block (paper 3.2, Fig. 3), one class each.

A branch is a linear map followed by a BN of its own. Its class says what it computes (`linear`, or `layers` where that
takes several steps) and which K×K convolution equals that in eval mode (`linear_equivalent`). The order of the classes
below is the order of the branches everywhere.
"""

from functools import partial

import torch
from torch import Tensor, nn

from ..search.space import register_branch
from . import ops, reparam
from .block_call import BlockCall
from .fast import strided
from .layer import Layer
from .norm import build_norm, scale_and_shift


class Branch(nn.Module):
    """Base of all branches: ``BN(linear(x))``.

    Args:
        in_channels, out_channels, kernel_size, stride, groups, dilation: The block's.
        norm_cfg (dict): Config of the BN.
        shared (bool): True if convolution weights are center crops of the block's kernel (Eq. 5).
    """

    name: str
    uses_kernel = True
    # (height, width) of the branch's own convolution, of the shared kernel's crop; 'K' is the block's kernel size
    window: tuple = ('K', 'K')
    # True if `linear` is a 1×1 convolution, which backward may do again
    cheap = False

    def __init__(self, in_channels, out_channels, kernel_size, stride, groups, dilation, norm_cfg, shared):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.groups, self.dilation = kernel_size, stride, groups, dilation
        self.size = tuple(kernel_size if n == 'K' else n for n in self.window)
        self.add_weights(shared)
        self.norm = build_norm(norm_cfg, out_channels)

    def add_weights(self, shared: bool) -> None:
        """Make the parameters that are not a norm's.

        Each is the ``weight`` or ``bias`` of a module: optimizer constructors of other projects look for these names.
        """
        if self.uses_kernel and not shared:
            self.weight = new_kernel(self.out_channels, self.in_channels // self.groups, *self.size)
        else:
            self.register_parameter('weight', None)

    @staticmethod
    def exists(in_channels: int, out_channels: int, stride: int) -> bool:
        """True if a block of this shape has the branch at all."""
        return True

    def crop(self, kernel: Tensor | None) -> Tensor:
        """Kernel of this branch's convolution: its own, or the center of the shared one."""
        return self.weight if kernel is None else reparam.crop_kernel(kernel, *self.size)

    def padding(self, call: BlockCall) -> ops.Padding:
        """Padding that centers this branch's window where the K×K one is."""
        rows, cols = ((self.kernel_size - n) // 2 * self.dilation for n in self.size)
        left, right, top, bottom = call.padding
        return left - cols, right - cols, top - rows, bottom - rows

    def linear(self, x: Tensor, kernel: Tensor | None, call: BlockCall) -> Tensor:
        """All that comes before the last BN: (N, in, H, W) -> (N, out, H / stride, W / stride).

        Args:
            x: Input of the block.
            kernel: The block's shared K×K kernel, or None where the branch owns its weights.
            call: Padding, and state that the branches share.
        """
        shape = dict(stride=self.stride, padding=self.padding(call), groups=self.groups, dilation=self.dilation)
        return call.convolve(x, partial(self.crop, kernel), **shape)

    def layers(self, kernel: Tensor | None, call: BlockCall) -> list[Layer]:
        """`linear` in steps."""
        return [Layer(partial(self.linear, kernel=kernel, call=call), self.cheap)]

    def forward(self, x: Tensor, kernel: Tensor | None, call: BlockCall) -> Tensor:
        layers = strided.layers(self, x, kernel, call) or self.layers(kernel, call)
        return call.run([*layers, Layer(partial(call.normalize, self.norm))], x)

    def linear_equivalent(self, kernel: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Kernel (out, in // groups, K, K) and bias (or None for zero) of `linear` in eval mode, in float64."""
        return reparam.pad_kernel(self.crop(kernel), self.kernel_size), None

    @torch.no_grad()
    def equivalent(self, kernel: Tensor | None) -> reparam.Pair:
        """Kernel (out, in // groups, K, K) and bias (out,) that equal the branch in eval mode, in float64."""
        kernel, bias = self.linear_equivalent(None if kernel is None else kernel.double())
        scale, shift = scale_and_shift(self.norm)
        kernel, shift = reparam.fold_norm(kernel.double(), scale, shift)
        return kernel, shift if bias is None else shift + scale * bias


class CompositeBranch(Branch):
    """Base of the branches of two steps: 1×1 convolution, BN, border padding, and a K×K window.

    Border padding pads with the inner BN's output for a zero pixel, since a bias that passes through zero
    padding would not fuse. Here the border value is subtracted instead, the window pads zeros itself, and what the
    border adds behind the window is a constant a channel.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride, groups, dilation, norm_cfg, shared):
        super().__init__(in_channels, out_channels, kernel_size, stride, groups, dilation, norm_cfg, shared)
        self.inner_norm = build_norm(norm_cfg, self.inner_channels)

    @property
    def inner_channels(self) -> int:
        """Channels between the two steps."""
        raise NotImplementedError

    def pointwise_kernel(self, kernel: Tensor | None) -> Tensor:
        """Kernel of the 1×1 convolution, (inner_channels, in // groups, 1, 1)."""
        raise NotImplementedError

    def pointwise(self, x: Tensor, kernel: Tensor | None, call: BlockCall) -> Tensor:
        """The 1×1 convolution."""
        return call.convolve(x, partial(self.pointwise_kernel, kernel), 1, (0, 0, 0, 0), self.groups)

    def inner(self, x: Tensor, call: BlockCall) -> Tensor:
        """Inner BN less its border value."""
        y = call.normalize(self.inner_norm, x)
        # in place: BN's backward needs its input, not its output
        return y.sub_(call.border(self.inner_norm).to(y.dtype).view(1, -1, 1, 1))


@register_branch('1x1')
class PointwiseBranch(Branch):
    """1×1 convolution."""

    window = (1, 1)
    cheap = True


@register_branch('kxk')
class FullBranch(Branch):
    """K×K convolution, the main branch."""


@register_branch('1x1_kxk')
class PointwiseFullBranch(CompositeBranch):
    """1×1 convolution (in -> in), BN, border padding, K×K convolution.

    The 1×1 is the identity plus the center of the shared kernel where in = out, else plus a parameter of its own that
    starts at zero.
    """

    def add_weights(self, shared):
        super().add_weights(shared)
        inherits = shared and self.in_channels == self.out_channels
        self.delta = None if inherits else Delta(self.in_channels, self.in_channels // self.groups, 1, 1)

    @property
    def inner_channels(self):
        return self.in_channels

    def pointwise_kernel(self, kernel, dtype=None):
        delta = reparam.crop_kernel(kernel, 1, 1) if self.delta is None else self.delta.weight
        like = dict(dtype=dtype or delta.dtype, device=delta.device)
        return delta + reparam.identity_kernel(self.in_channels, self.groups, **like)

    def layers(self, kernel, call):
        return [
            Layer(partial(self.pointwise, kernel=kernel, call=call), cheap=True),
            Layer(partial(self.inner, call=call)),
            Layer(partial(self.full, kernel=kernel, call=call)),
        ]

    def full(self, x: Tensor, kernel: Tensor | None, call: BlockCall) -> Tensor:
        """The K×K convolution of `inner`."""
        weight = self.crop(kernel)
        bias = self.window_bias(weight, call.border(self.inner_norm))
        return ops.conv2d(x, weight, self.stride, self.padding(call), self.groups, bias, self.dilation)

    def window_bias(self, kernel: Tensor, border: Tensor) -> Tensor:
        """Response (out,) of the K×K ``kernel`` to the border value, (in,)."""
        bias = reparam.constant_response(kernel, border, self.groups)
        # a BN that subtracts the mean has no gradient for a constant
        return bias.detach() if self.norm.training else bias

    def linear_equivalent(self, kernel):
        pointwise = self.pointwise_kernel(kernel, torch.float64)
        first = reparam.fold_norm(pointwise, *scale_and_shift(self.inner_norm))
        second = self.crop(kernel).double()
        return reparam.fuse_sequence(first, (second, second.new_zeros(self.out_channels)), self.groups)


@register_branch('1x1_avg')
class PointwiseAvgBranch(CompositeBranch):
    """1×1 convolution, BN, border padding, K×K average pooling."""

    window = (1, 1)

    @property
    def inner_channels(self):
        return self.out_channels

    def pointwise_kernel(self, kernel):
        return self.crop(kernel)

    def layers(self, kernel, call):
        return [
            Layer(partial(self.pointwise, kernel=kernel, call=call), cheap=True),
            Layer(partial(self.pool, call=call)),
        ]

    def pool(self, x: Tensor, call: BlockCall) -> Tensor:
        """`inner` and the average pooling, which needs nothing of it in backward."""
        y = ops.avg_pool2d(self.inner(x, call), self.kernel_size, self.stride, call.padding, self.dilation)
        return y.add_(call.border(self.inner_norm).to(y.dtype).view(1, -1, 1, 1))

    def linear_equivalent(self, kernel):
        first = reparam.fold_norm(self.crop(kernel).double(), *scale_and_shift(self.inner_norm))
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
        return ops.pad_zeros(x, self.padding(call))

    def linear_equivalent(self, kernel):
        weight = self.norm.weight
        return reparam.identity_kernel(
            self.out_channels, self.groups, self.kernel_size, dtype=torch.float64, device=weight.device
        ), None


class Delta(nn.Module):
    """A kernel that is added to another one, as a module for its parameter's name; at first zero."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(*shape))


def new_kernel(*shape: int) -> nn.Parameter:
    """A convolution kernel, initialized as mmpretrain's RepVGG does (Kaiming normal, fan out)."""
    kernel = nn.Parameter(torch.empty(*shape))
    nn.init.kaiming_normal_(kernel, mode='fan_out', nonlinearity='relu')
    return kernel
