"""A stem as one convolution in training, too.

Where a patch of the input has fewer values than the output has channels, the moments of the patches cost no more than
one convolution, and the BN statistics of all branches follow from them without a feature map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import ops, reparam
from . import is_on
from .moments import Moments, input_moments, norm_from_moments
from .strided import fold_pointwise, merge_full, merge_kernels

#: Branches whose kernel in training is known here; a stem has no skip
KNOWN = {'1x1', 'kxk', '1x1_kxk', '1x1_avg', '1xk', 'kx1'}


def applies(block, x: Tensor, call) -> bool:
    """True if all active branches of ``block`` can be one convolution for ``x`` in training mode."""
    left, right, top, bottom = call.padding
    rows, cols = (
        (length + around - block.kernel_size) // block.stride + 1
        for length, around in zip(x.shape[2:], (top + bottom, left + right))
    )
    if min(len(x) * rows * cols, x[:, 0].numel()) <= 1:
        return False  # for a BN to ignore or refuse, as it does
    patch = (block.in_channels + 1) * block.kernel_size**2
    if (
        block.groups > 1
        or patch > block.out_channels
        or not is_on('stem')
        or not KNOWN.issuperset(block.active_branches)
    ):
        return False
    # a SyncBN gathers its statistics elsewhere
    modules = (module for name in block.active_branches for module in block.branches[name].children())
    norms = (module for module in modules if isinstance(module, _BatchNorm))
    return all(type(norm) is nn.BatchNorm2d and norm.training for norm in norms)


def forward(block, x: Tensor, call) -> Tensor:
    """Sum of the active branches in training mode, (N, out, H', W').

    Args:
        block: `ODBBlock`.
        x: (N, in, H, W).
        call: `BlockCall`.
    """
    with ops.without_autocast(x.device):
        with_ones, moments = _patches(block, x, call)
        pairs = [
            _kernel_and_bias(block.branches[name], x, block.kernel, call, moments) for name in block.active_branches
        ]
        kernel, bias = reparam.add_kernels(pairs)
    return ops.conv2d(with_ones, kernel, block.stride, call.padding, 1, bias, block.dilation)


def _patches(block, x: Tensor, call) -> tuple[Tensor, Moments]:
    """``x`` with a channel of ones behind it, and the moments of its K×K patches.

    A patch flattened, (in + 1)·K² values, counts as the channels of a pixel. The ones are padded with zeros as ``x``
    is, and so say what part of a patch is inside the image.
    """
    with_ones = torch.cat([x, x.new_ones(1, 1, 1, 1).expand(len(x), 1, *x.shape[2:])], 1)
    window = dict(kernel_size=block.kernel_size, dilation=block.dilation, stride=block.stride)
    patches = F.unfold(ops.pad_zeros(with_ones, call.padding), **window)
    return with_ones, input_moments(patches.unsqueeze(2), 1)


def _kernel_and_bias(branch, x: Tensor, kernel: Tensor | None, call, moments: Moments) -> reparam.Pair:
    """One branch in training mode as (out, in + 1, K, K), over ``x`` and ones, and (out,)."""
    size, over_ones, bias = branch.kernel_size, None, None
    if branch.name == '1x1_kxk':
        first, second = fold_pointwise(branch, x, kernel, call), branch.crop(kernel)
        over_x = merge_kernels(branch, first, second)
        over_ones, bias = merge_full(branch, first, second)
    elif branch.name == '1x1_avg':
        first = fold_pointwise(branch, x, kernel, call)
        over_x = first.kernel.expand(-1, -1, size, size) / size**2
        over_ones, bias = first.bias.view(-1, 1, 1, 1).expand(-1, -1, size, size) / size**2, first.border
    else:
        over_x = reparam.pad_kernel(branch.crop(kernel), size)
    if over_ones is None:
        over_ones = over_x.new_zeros(len(over_x), 1, size, size)
    whole = torch.cat([over_x, over_ones], 1)
    scale, shift = norm_from_moments(
        branch.norm, whole.flatten(1)[:, :, None, None], moments, not call.second_pass, bias
    )
    return reparam.fold_norm(whole, scale, shift)
