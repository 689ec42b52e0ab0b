"""Ordinary convolution weights as the start of an ODBB block that computes the same in eval mode."""

from collections.abc import MutableMapping

import torch
from torch import Tensor, nn

from . import reparam
from .block_call import BlockCall
from .foreign import FUSED, Branches
from .norm import batch_moments, move_statistics

#: The branch that takes over a whole convolution; at first its BN is the identity and those of all others give zero.
MAIN_BRANCH = 'kxk'

#: α of the main branch, where the others have about 0: it is then drawn in 19 of 20 comparisons with another branch, so
#: that a search starts near the loaded network and may still leave it.
HEAD_START = 4.0


def pop_convolution(state_dict: MutableMapping[str, Tensor], prefix: str) -> reparam.Pair | None:
    """Take an ordinary convolution at ``prefix`` out of ``state_dict``, or leave it as it is.

    It may be a fused block, ours or another one of `repnas_mm.models.foreign`.

    Returns:
        Kernel (out, in // groups, K, K) and bias (out,), or None where there is none.
    """
    if any(key.startswith(f'{prefix}branches.') for key in state_dict):
        return None
    for name in (*(f'{prefix}{fused}.' for fused in FUSED), prefix):
        if name + 'weight' in state_dict:
            kernel = state_dict.pop(name + 'weight')
            bias = state_dict.pop(name + 'bias', None)
            return kernel, kernel.new_zeros(kernel.shape[:1]) if bias is None else bias
    return None


def warm_state(block: nn.Module, kernel: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """State dict of an unfused ``block`` whose main branch computes a convolution and whose other branches give 0.

    The others are there to learn: their BN's weight starts at 0 but has a gradient, as a zero-initialized residual
    branch has. A frozen block, which nothing will change, computes the main branch alone.

    Args:
        block: `ODBBlock`.
        kernel: Of the convolution, (out, in // groups, K, K).
        bias: Of the convolution, (out,).
    """
    state = {name: value.detach().clone() for name, value in block.state_dict().items()}
    state['weight' if block.share_weights else f'branches.{MAIN_BRANCH}.weight'] = kernel
    for name in block.branches:
        _silence(block, state, name)
    state[f'branches.{MAIN_BRANCH}.norm.weight'].fill_(1)
    state[f'branches.{MAIN_BRANCH}.norm.bias'] = bias
    if block.alpha is not None:
        index = block.candidates.index(MAIN_BRANCH)
        state['alpha'][index] = HEAD_START
        if not block.searchable:
            state['active'] = torch.arange(len(block.candidates)) == index
    return state


def branch_state(block: nn.Module, branches: Branches) -> dict[str, Tensor]:
    """State dict of a subnet ``block`` with these branches as they are, and others, if it has any, that give 0."""
    state = {name: value.detach().clone() for name, value in block.state_dict().items()}
    for name in block.branches.keys() - branches.keys():
        _silence(block, state, name)
    state.update({f'branches.{name}.{key}': value for name, own in branches.items() for key, value in own.items()})
    return state


def _silence(block: nn.Module, state: dict[str, Tensor], name: str) -> None:
    eps = block.branches[name].norm.eps
    for key, value in (('weight', 0), ('bias', 0), ('running_mean', 0), ('running_var', 1 - eps)):
        state[f'branches.{name}.norm.{key}'].fill_(value)


@torch.no_grad()
def adopt_statistics(block: nn.Module, x: Tensor) -> None:
    """Give the main branch's BN the statistics of its first training batch, without changing what it computes.

    After a warm start they are 0 and 1, and a BN in training mode, which normalizes by the batch, would compute another
    function than the one loaded. A batch without content changes nothing; then the next one is the first.

    Args:
        block: `ODBBlock`.
        x: (N, in, H, W), its input.
    """
    branch = block.branches[MAIN_BRANCH]
    if branch.norm.training:
        moments = batch_moments(branch.linear(x, block.kernel, BlockCall(block.padding_of(x))))
        if moments is None:
            return
        move_statistics(branch.norm, *moments)
    block.warm_started = False
