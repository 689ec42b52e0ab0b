"""The seven branches of an optimal diverse branch block (paper 3.2, Fig. 3), one class each.

Every branch is a linear map followed by its own BN, and keeps one contract:

* ``exists(in_channels, out_channels, stride)``: whether a block of this shape has the branch at all;
* ``forward(x, kernel, gate, call)``: its output, gated; ``kernel`` is the block's shared K×K kernel, or None where
  the branch owns its weights;
* ``equivalent(kernel)``: the K×K kernel and bias, in float64, that compute the same in eval mode;
* ``as_one_convolution(x, kernel, gate, call)``: the same in training mode, where ``foldable``.

The order of the classes below is the order of the branches everywhere.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..search.space import register_branch
from . import reparam
from .moments import Moments, exact, fold_norm, input_moments
from .norm import border_value, build_norm, call_norm, scale_and_shift
from .recipe import Leftover, keep_recipe


class BlockCall:
    """What one forward call of a block shares between its branches, and with its own recomputation.

    ``padding`` is what the K×K window pads with zeros: (left, right, top, bottom) pixels. ``recompute`` is False in the
    first pass and True when activation checkpointing runs the same call again: then BN statistics stay as they are and
    the borders of the first pass are padded again. ``pointwise`` is the output of the shared 1×1 convolution, and
    `moments` are those of the block's input, computed once a pass. A pass is a ``with`` block, because torch ends a
    recomputation early, by an exception.

    With ``recipes``, `keep` makes autograd compute a tensor again in backward instead of keeping it.
    """

    def __init__(self, padding: tuple[int, int, int, int], recipes: bool = False):
        self.padding = padding
        self.recipes = recipes
        self.open = self.recompute = False
        self.borders: dict[str, Tensor] = {}
        self.pointwise: Tensor | None = None
        self._moments: Moments | None = None
        self._patches: tuple[Tensor, Moments] | None = None

    def __enter__(self) -> None:
        self.open = True

    def __exit__(self, *_) -> None:
        self.open, self.recompute = False, True
        self.pointwise = self._moments = self._patches = None

    def keep(self, tensor: Tensor, make: Callable[[], Tensor]) -> AbstractContextManager:
        """Context in which operations that need ``tensor`` in backward will call ``make``, after this pass."""
        return keep_recipe(tensor, make) if self.recipes and not self.recompute else nullcontext()

    def leftover(self, make: Callable[[], Tensor]) -> Leftover:
        """``make``, whose result two recipes share."""
        return Leftover(make, lambda: not self.open)

    def moments(self, x: Tensor, groups: int) -> Moments:
        """Of the block's input ``x``."""
        if self._moments is None:
            self._moments = input_moments(x, groups)
        return self._moments

    def patches(self, x: Tensor, size: int, stride: int) -> tuple[Tensor, Moments]:
        """The block's input ``x`` and a channel of ones behind it; and the moments of what its K×K window sees of them.

        The window flattened, (C + 1)·K², is a channel of its own to the moments. Among padded zeros the ones tell what
        is inside of the image.
        """
        if self._patches is None:
            with_ones = torch.cat([x, x.new_ones(1, 1, 1, 1).expand(len(x), 1, *x.shape[2:])], 1)
            seen = F.unfold(pad_zeros(with_ones, self.padding), size, stride=stride)
            self._patches = with_ones, input_moments(seen.unsqueeze(2), 1)
        return self._patches


class Branch(nn.Module):
    """Base of all branches: ``gate * BN(linear(x))``.

    Args:
        in_channels, out_channels, kernel_size, stride, groups: The block's.
        norm_cfg (dict): Config of the BN.
        shared (bool): Whether convolution weights are center crops of the block's kernel (Eq. 5).
    """

    name: str
    uses_kernel = True
    # whether backward may compute what comes before the last BN again, instead of keeping it
    cheap = False
    # whether `kernels` holds in training mode
    foldable = False
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
        crop = partial(self.crop, kernel)
        weight = crop()
        with call.keep(weight, crop):
            return conv2d(x, weight, self.stride, self.padding(call), self.groups)

    def padding(self, call: BlockCall) -> tuple[int, int, int, int]:
        """Left, right, top and bottom pixels that center this branch's window where the K×K one is; negative crops."""
        rows, cols = ((self.kernel_size - n) // 2 for n in self.size)
        left, right, top, bottom = call.padding
        return left - cols, right - cols, top - rows, bottom - rows

    def plan(self, x: Tensor, kernel: Tensor | None, call: BlockCall) -> Callable[[], Tensor]:
        """What computes `linear`: called in the forward pass and, if the branch is ``cheap``, once more in backward."""
        return partial(self.linear, x, kernel, call)

    def linear_equivalent(self, kernel: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Kernel (K×K) and bias (or None for zero) of `linear`, in eval mode, float64."""
        return reparam.pad_kernel(self.crop(kernel), self.kernel_size), None

    def forward(self, x: Tensor, kernel: Tensor | None, gate: Tensor | None, call: BlockCall) -> Tensor:
        make = self.plan(x, kernel, call)
        y = make()
        with call.keep(y, make) if self.cheap else nullcontext():
            return call_norm(self.norm, y, gate, not call.recompute)

    @torch.no_grad()
    def equivalent(self, kernel: Tensor | None) -> tuple[Tensor, Tensor]:
        """(out, in // groups, K, K) kernel and (out,) bias that equal this branch in eval mode, float64."""
        kernel, bias = self.linear_equivalent(None if kernel is None else kernel.double())
        scale, shift = scale_and_shift(self.norm)
        kernel, shift = reparam.fuse_norm(kernel.double(), scale, shift)
        return kernel, shift if bias is None else shift + scale * bias

    def kernels(self, x: Tensor, kernel: Tensor | None, call: BlockCall) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """`linear` as one K×K convolution, in training mode and with gradients.

        Returns:
            Its kernel over the block's input ``x``, (out, in, K, K); that over a channel of ones, (out, 1, K, K), and
            a bias, (out,), or None for zeros.
        """
        whole, bias = self.linear_equivalent(kernel)  # of a branch without an inner BN, in any mode
        return whole, None, bias

    def as_one_convolution(
        self, x: Tensor, kernel: Tensor | None, gate: Tensor | None, call: BlockCall
    ) -> tuple[Tensor, Tensor]:
        """`forward` in training mode as (out, in + 1, K, K) kernel, over ``x`` and ones, and (out,) bias."""
        over_x, over_ones, bias = self.kernels(x, kernel, call)
        if over_ones is None:
            over_ones = over_x.new_zeros(len(over_x), 1, *over_x.shape[2:])
        whole = torch.cat([over_x, over_ones], 1)
        _, moments = call.patches(x, self.kernel_size, self.stride)
        scale, shift = fold_norm(self.norm, whole.flatten(1)[:, :, None, None], moments, not call.recompute, bias)
        if gate is not None:
            scale, shift = scale * gate, shift * gate
        return reparam.fuse_norm(whole, scale, shift)

    def inner_norm_over_border(self, make: Callable[[], Tensor], call: BlockCall) -> tuple[Tensor, Tensor]:
        """The inner BN of what ``make`` computes, less its answer to a zero pixel, and that answer, (C,).

        Border padding (DESIGN 2) is padding with that answer; a zero pad would not fuse, since the bias of the first
        conv has to pass through the padding too. Over the border, padding is zeros again, which convolutions and
        poolings do themselves, and what the border adds to them is a constant a channel.
        """
        x = make()
        with call.keep(x, make):
            x = call_norm(self.inner_norm, x, update_stats=not call.recompute)
        border = self.border(call)
        # in place: BN's backward needs its input, not its output
        return x.sub_(border.to(x.dtype).view(1, -1, 1, 1)), border

    def border(self, call: BlockCall) -> Tensor:
        """The inner BN's answer to a zero pixel, (C,), in every pass that of the first."""
        if self.name not in call.borders:
            call.borders[self.name] = border_value(self.inner_norm)
        return call.borders[self.name]

    def folds(self) -> bool:
        """Whether 1×1 and inner BN shall become one 1×1, with statistics from the moments of the block's input.

        That is where a stride would leave out most of what they compute. A SyncBN is left to itself.
        """
        return self.stride > 1 and type(self.inner_norm) is nn.BatchNorm2d

    def fold(self, x: Tensor, kernel: Tensor, call: BlockCall) -> tuple[Tensor, Tensor, Tensor]:
        """The 1×1 ``kernel`` and the inner BN over the border value, as a kernel and a bias (C,); and that value."""
        moments = call.moments(x, self.groups) if self.inner_norm.training else None
        scale, shift = fold_norm(self.inner_norm, kernel, moments, not call.recompute)
        border = self.border(call)
        return kernel * scale.view(-1, 1, 1, 1), shift - border, border


@register_branch('1x1')
class PointwiseBranch(Branch):
    """1×1 convolution."""

    cheap = foldable = True
    window = (1, 1)

    def linear(self, x, kernel, call):
        if self.stride > 1 or kernel is None:
            return super().linear(x, kernel, call)
        return pad_zeros(shared_pointwise(self, x, kernel, call), self.padding(call))


@register_branch('kxk')
class FullBranch(Branch):
    """K×K convolution, the main branch."""

    foldable = True


@register_branch('1x1_kxk')
class PointwiseFullBranch(Branch):
    """1×1 convolution (in -> in), BN, border padding, K×K convolution.

    The 1×1 is the identity plus the center of the shared kernel where in = out, else plus a parameter of its own that
    starts at zero.
    """

    foldable = True

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
        first, second = self.inner_kernel(kernel), self.crop(kernel)
        # one kernel for both convolutions costs out * in * in * K * K multiply-adds, however many pixels there are
        if self.folds() and self.out_channels * self.kernel_size**2 <= x[:, 0].numel():
            return self.merged(x, first, second, call)
        inner = call.leftover(partial(F.conv2d, x, first, groups=self.groups))
        x, border = self.inner_norm_over_border(inner, call)
        with call.keep(x, lambda: self.inner_norm_over_border(inner, call)[0]):
            bias = self.border_bias(second, border)
            return conv2d(x, second, self.stride, self.padding(call), self.groups, bias)

    def border_bias(self, kernel: Tensor, border: Tensor) -> Tensor:
        """What the K×K ``kernel`` makes of the border value, (out,)."""
        bias = reparam.answer_to_constant(kernel, border, self.groups)
        # a BN that subtracts the mean has no gradient for a constant
        return bias.detach() if self.norm.training else bias

    def merged(self, x: Tensor, first: Tensor, second: Tensor, call: BlockCall) -> Tensor:
        """`linear` as one convolution with the kernels of both, and what the inner BN's bias adds to it."""
        merge, shifts, bias = self.merging(x, first, second, call)
        kernel = merge()
        with call.keep(kernel, merge):
            y = conv2d(x, kernel, self.stride, self.padding(call), self.groups, bias)
        inside = x.new_ones(1, 1, *x.shape[2:])
        return y.add_(conv2d(inside, shifts, self.stride, self.padding(call), 1))

    def merging(
        self, x: Tensor, first: Tensor, second: Tensor, call: BlockCall
    ) -> tuple[Callable[[], Tensor], Tensor, Tensor]:
        """What computes the one kernel; the kernel over ones, (out, 1, K, K), and the bias that belong to it."""
        with exact(x.device):
            first, shift, border = self.fold(x, first, call)
            shifts = reparam.merge_pointwise(shift.view(-1, 1, 1, 1), second, self.groups)
            return partial(merge_exactly, first, second, self.groups), shifts, self.border_bias(second, border)

    def kernels(self, x, kernel, call):
        merge, shifts, bias = self.merging(x, self.inner_kernel(kernel), self.crop(kernel), call)
        return merge(), shifts, bias

    def linear_equivalent(self, kernel):
        first = reparam.fuse_norm(self.inner_kernel(kernel).double(), *scale_and_shift(self.inner_norm))
        second = self.crop(kernel).double()
        return reparam.fuse_sequence(first, (second, second.new_zeros(self.out_channels)), self.groups)


@register_branch('1x1_avg')
class PointwiseAvgBranch(Branch):
    """1×1 convolution, BN, border padding, K×K average pooling."""

    cheap = foldable = True
    window = (1, 1)

    def __init__(self, in_channels, out_channels, kernel_size, stride, groups, norm_cfg, shared):
        super().__init__(in_channels, out_channels, kernel_size, stride, groups, norm_cfg, shared)
        self.inner_norm = build_norm(norm_cfg, out_channels)

    def plan(self, x, kernel, call):
        if not self.folds():
            if kernel is None:
                inner = partial(F.conv2d, x, self.weight, groups=self.groups)
            else:
                inner = partial(shared_pointwise, self, x, kernel, call)
            return partial(self.pool, call.leftover(inner), call)
        with exact(x.device):
            first, shift, border = self.fold(x, self.crop(kernel), call)
            inside = avg_pool2d(x.new_ones(1, 1, *x.shape[2:]), self.kernel_size, self.stride, call.padding)
            shift = shift.view(1, -1, 1, 1) * inside
        # pooling and 1×1 may change places, and after the stride there are fewer pixels
        pooled = avg_pool2d(x, self.kernel_size, self.stride, call.padding)
        return lambda: F.conv2d(pooled, first, border.to(first.dtype), groups=self.groups).add_(shift)

    def linear(self, x, kernel, call):
        return self.plan(x, kernel, call)()

    def kernels(self, x, kernel, call):
        first, shift, border = self.fold(x, self.crop(kernel), call)
        over = torch.cat([first, shift.view(-1, 1, 1, 1)], 1) / self.kernel_size**2
        whole = over.expand(-1, -1, self.kernel_size, self.kernel_size)
        return whole[:, :-1], whole[:, -1:], border

    def pool(self, inner: Callable[[], Tensor], call: BlockCall) -> Tensor:
        """Inner BN, border padding and pooling of what ``inner`` computes."""
        x, border = self.inner_norm_over_border(inner, call)
        # the backward of a pooling needs the shape of its input only
        with call.keep(x, partial(torch.empty_strided, x.shape, x.stride(), dtype=x.dtype, device=x.device)):
            y = avg_pool2d(x, self.kernel_size, self.stride, call.padding)
        return y.add_(border.to(y.dtype).view(1, -1, 1, 1))

    def linear_equivalent(self, kernel):
        first = reparam.fuse_norm(self.crop(kernel).double(), *scale_and_shift(self.inner_norm))
        pool = reparam.avg_pool_kernel(
            self.out_channels, self.kernel_size, self.groups, dtype=torch.float64, device=first[0].device
        )
        return reparam.fuse_sequence(first, (pool, pool.new_zeros(self.out_channels)), self.groups)


@register_branch('1xk')
class HorizontalBranch(Branch):
    """1×K convolution."""

    foldable = True
    window = (1, 'K')


@register_branch('kx1')
class VerticalBranch(Branch):
    """K×1 convolution."""

    foldable = True
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


def merge_exactly(first: Tensor, second: Tensor, groups: int) -> Tensor:
    """`reparam.merge_pointwise` without mixed precision."""
    with exact(first.device):
        return reparam.merge_pointwise(first, second, groups)


def shared_pointwise(branch: Branch, x: Tensor, kernel: Tensor, call: BlockCall) -> Tensor:
    """x under the shared kernel's center at stride 1, which `1x1` and the head of `1x1_avg` compute once together."""
    if call.pointwise is not None:
        return call.pointwise
    crop = partial(branch.crop, kernel)
    weight = crop()
    with call.keep(weight, crop):
        y = F.conv2d(x, weight, groups=branch.groups)
    if call.open:
        call.pointwise = y
    return y


def conv2d(
    x: Tensor,
    kernel: Tensor,
    stride: int,
    padding: tuple[int, int, int, int],
    groups: int,
    bias: Tensor | None = None,
) -> Tensor:
    """Convolution with (left, right, top, bottom) pixels of zero padding, where negative ones crop."""
    left, right, top, bottom = padding
    if left != right or top != bottom or min(padding) < 0:
        x, left, top = pad_zeros(x, padding), 0, 0
    return F.conv2d(x, kernel, bias, stride, (top, left), 1, groups)


def avg_pool2d(x: Tensor, size: int, stride: int, padding: tuple[int, int, int, int]) -> Tensor:
    """Average pooling with (left, right, top, bottom) pixels of zero padding, which count.

    As the convolution that it is (Eq. 4): F.avg_pool2d takes about ten times as long on the CPU.
    """
    channels = x.shape[1]
    return conv2d(x, x.new_full((channels, 1, size, size), 1 / size**2), stride, padding, channels)


def pad_zeros(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """(N, C, H, W) with (left, right, top, bottom) pixels of zeros, where negative ones crop; itself if all are 0."""
    return F.pad(x, padding) if any(padding) else x
