"""Absorb branches into the main one, so that they can leave without a change of what the block computes.

A branch in front of its BN is a convolution K_r plus a constant, and its BN a scale s_r = γ_r/σ_r and a shift a
channel. So the main branch computes all of them with the kernel Σ s_r K_r, the main branch's own s_k W among them, up
to a scale a channel that goes into γ. That scale is chosen so that each filter of the main branch keeps its norm, and
with it the speed at which it learns behind a BN. It is finite where s_k is 0, too.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy

import torch
from torch import Tensor

from . import ops
from .block_call import BlockCall
from .norm import batch_moments, scale_and_shift
from .reparam import Pair
from .warm_start import MAIN_BRANCH


def absorb(block, branches: Iterable[str], x: Tensor) -> None:
    """`ODBBlock.absorb`.

    Args:
        block: `ODBBlock`.
        branches: Names of active branches.
        x: (N, in, H, W), input of the block.
    """
    if block.deploy:
        raise RuntimeError('A fused ODBBlock has no branches left to absorb; start from the unfused model.')
    names = block.check_branches(branches)
    if absent := [name for name in (*names, MAIN_BRANCH) if name not in block.active_branches]:
        raise ValueError(
            f"Branch '{absent[0]}' is not active, so that absorbing is not possible; active are "
            f'{", ".join(block.active_branches)}.'
        )
    if MAIN_BRANCH in names:
        raise ValueError(f"'{MAIN_BRANCH}' is the branch that absorbs the others; it cannot leave.")
    kept = tuple(name for name in block.active_branches if name not in names)
    if block.share_weights and any(block.branches[name].uses_kernel for name in kept if name != MAIN_BRANCH):
        raise ValueError(
            f"'{MAIN_BRANCH}' shares its kernel with a branch that stays and cannot absorb others; build the block "
            'with share_weights=False.'
        )
    _take_over(block, names, x)
    if block.alpha is None:
        block.switch_to_subnet(kept)
    block.active_branches = kept


@torch.no_grad()
def _take_over(block, names: Sequence[str], x: Tensor) -> None:
    """Change the main branch of ``block`` so that it computes the branches ``names`` besides, in place.

    Each BN is taken in its own mode: in training mode with the statistics of ``x``, over all ranks, in eval mode with
    the running ones. What the block computes stays the same in that mode, but for one thing: in training mode the
    border of `1x1_kxk` and `1x1_avg` is padded by running statistics (border padding), which no kernel can repeat
    where they differ from those of ``x``. The running statistics of the main branch follow. Where ``x`` has no content
    (`batch_moments`), all BNs are taken in eval mode, and the running variance is that of independent branches.

    Args:
        block: `ODBBlock` with weights of their own for the branches that stay active.
        names: Active branches but the main one.
        x: (N, in, H, W), input of the block.
    """
    # float64, and a copy, whose statistics may move as in a forward, which the border depends on
    exact = deepcopy(block).double()
    x = x.detach().double()
    with ops.without_autocast(x.device):
        call = BlockCall(exact.padding_of(x), recompute=False)
        main = _Folded(exact, MAIN_BRANCH, x, call)
        parts = [main, *(_Folded(exact, name, x, call) for name in names)]
        total = sum(part.kernel * part.scale.view(-1, 1, 1, 1) for part in parts)
        norm, old = block.branches[MAIN_BRANCH].norm, main.kernel.flatten(1).norm(dim=1)
        old = torch.where(old > 0, old, torch.ones_like(old))
        scale = total.flatten(1).norm(dim=1) / old * torch.where(main.scale < 0, -1.0, 1.0)
        nonzero = scale != 0
        kernel = torch.where(nonzero.view(-1, 1, 1, 1), total / scale.view(-1, 1, 1, 1), main.kernel)
        y = ops.conv2d(x, kernel, block.stride, call.padding, block.groups)
        moments = batch_moments(y)
        shift = sum(part.shift for part in parts)
        # running statistics of the new kernel: the mean is linear; the variance differs from the batch's as before
        running_mean = torch.where(nonzero, sum(p.scale * p.running_mean for p in parts) / scale, norm.running_mean)
        if moments is None or main.batch_var is None:
            independent = sum(part.scale.square() * part.running_var for part in parts) / scale.square()
            running_var = torch.where(nonzero, independent, main.running_var)
        else:
            running_var = moments[1] * (main.running_var / main.batch_var.clamp_min(1e-30))
        used_mean, used_var = (running_mean, running_var) if moments is None or not norm.training else moments
    main_kernel = block.weight if block.share_weights else block.branches[MAIN_BRANCH].weight
    main_kernel.copy_(kernel)
    norm.weight.copy_(scale * (used_var + norm.eps).sqrt())
    norm.bias.copy_(shift + scale * used_mean)
    norm.running_mean.copy_(running_mean)
    norm.running_var.copy_(running_var)


class _Folded:
    """A branch before absorption, float64: ``scale * (kernel * x) + shift`` is its output.

    Attributes:
        kernel: (out, in // groups, K, K).
        scale, shift: (out,).
        running_mean: (out,), of ``kernel * x`` alone.
        running_var, batch_var: (out,), of the BN's input; the batch's is None where it has no content.
    """

    def __init__(self, block, name: str, x: Tensor, call: BlockCall):
        branch, kernel = block.branches[name], block.weight
        outputs = [x]
        for layer in branch.layers(kernel, call):
            outputs.append(layer.function(outputs[-1]))
        moments = batch_moments(outputs[-1])
        self.batch_var = None if moments is None else moments[1]
        self.running_var = branch.norm.running_var
        self.kernel, constant = _as_convolution(branch, kernel)
        self.running_mean = branch.norm.running_mean - constant
        inner_norm = getattr(branch, 'inner_norm', None)
        if moments is not None and inner_norm is not None and inner_norm.training:
            inner_moments = batch_moments(outputs[1])
            assert inner_moments is not None, 'torch refuses one value a channel before this'
            inner_norm.running_mean, inner_norm.running_var = inner_moments
            self.kernel, constant = _as_convolution(branch, kernel)
        if moments is not None and branch.norm.training:
            branch.norm.running_mean, branch.norm.running_var = moments
        self.scale, shift = scale_and_shift(branch.norm)
        self.shift = shift + self.scale * constant


def _as_convolution(branch, kernel: Tensor | None) -> Pair:
    """Kernel (out, in // groups, K, K) and bias (out,) of ``branch`` in front of its last BN, inner BN in eval mode."""
    weight, bias = branch.linear_equivalent(kernel)
    return weight, weight.new_zeros(len(weight)) if bias is None else bias
