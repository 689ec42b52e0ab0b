"""The 1×1 convolution with the center of the shared kernel, which `1x1` and `1x1_avg` compute once together."""

from functools import partial

from torch import Tensor

from . import is_on


def shared_pointwise(branch, x: Tensor, kernel: Tensor | None, call) -> Tensor:
    """1×1 convolution of ``x`` at stride 1, (N, out, H, W).

    Args:
        branch: A `Branch` whose own window is 1×1.
        x: Input of the block, (N, in, H, W).
        kernel: The block's shared kernel, or None where the branch owns its weights and there is nothing to share.
        call: `BlockCall`.
    """
    convolve = partial(call.convolve, x, partial(branch.crop, kernel), 1, (0, 0, 0, 0), branch.groups)
    if kernel is None or not is_on('shared_pointwise'):
        return convolve()
    return call.once('shared 1x1', convolve)
