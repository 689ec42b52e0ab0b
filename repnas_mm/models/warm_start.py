"""Ordinary convolution weights as the start of an ODBB block that computes the same in eval mode."""

from collections.abc import MutableMapping

import torch
from torch import Tensor, nn

from ..checks import explain_errors
from . import reparam
from .block_call import BlockCall
from .norm import batch_moments, move_statistics

#: The branch that takes over a whole convolution; at first its BN is the identity and those of all others give zero.
MAIN_BRANCH = 'kxk'

#: α of the main branch, where the others have about 0: it is then drawn in 19 of 20 comparisons with another branch, so
#: that a search starts near the loaded network and may still leave it.
HEAD_START = 4.0


def pop_convolution(state_dict: MutableMapping[str, Tensor], prefix: str, groups: int, eps: float):
    """Take an ordinary convolution at ``prefix`` out of ``state_dict``, or leave it as it is.

    Understood are a plain convolution (``weight``, ``bias``), a fused ODBB block (``reparam``) and mmpretrain's
    RepVGG block, fused (``branch_reparam``) or not (``branch_3x3``, ``branch_1x1``, ``branch_norm``).

    Args:
        groups: Of the block.
        eps: Of the BNs of an unfused RepVGG block, which its checkpoint does not hold.

    Returns:
        Kernel (out, in // groups, K, K) and bias (out,), or None where the keys are an unfused ODBB block's or absent.

    Raises:
        ValueError: for a RepVGG block that is not whole.
    """
    keys = {key[len(prefix) :]: key for key in state_dict if key.startswith(prefix)}
    if any(key.startswith('branches.') for key in keys):
        return None
    if 'branch_3x3.conv.weight' in keys:
        state = {key: state_dict.pop(full) for key, full in keys.items() if key.startswith('branch_')}
        with explain_errors(f"The checkpoint's RepVGG block '{prefix[:-1]}' is not whole"):
            return _fuse_repvgg(state, groups, eps)
    for name in ('reparam.', 'branch_reparam.', ''):
        if name + 'weight' in keys:
            kernel = state_dict.pop(keys[name + 'weight'])
            bias = state_dict.pop(keys[name + 'bias']) if name + 'bias' in keys else kernel.new_zeros(kernel.shape[:1])
            return kernel, bias
    return None


def _fuse_repvgg(state: dict[str, Tensor], groups: int, eps: float) -> reparam.Pair:
    main = state['branch_3x3.conv.weight']
    size = main.shape[2]
    identity = (
        reparam.identity_kernel(len(main), groups, dtype=torch.float64) if 'branch_norm.weight' in state else None
    )
    pairs = []
    for kernel, norm in (
        (main, 'branch_3x3.norm.'),
        (state.get('branch_1x1.conv.weight'), 'branch_1x1.norm.'),
        (identity, 'branch_norm.'),
    ):
        if kernel is not None:
            mean, var, gamma, beta = (
                state[norm + name].double() for name in ('running_mean', 'running_var', 'weight', 'bias')
            )
            scale = gamma / (var + eps).sqrt()
            kernel = kernel.to(scale).double()
            pairs.append(reparam.fold_norm(reparam.pad_kernel(kernel, size), scale, beta - mean * scale))
    kernel, bias = reparam.add_kernels(pairs)
    return kernel.to(main.dtype), bias.to(main.dtype)


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
    for name, branch in block.branches.items():
        norm = f'branches.{name}.norm.'
        for key, value in (('weight', 0), ('bias', 0), ('running_mean', 0), ('running_var', 1 - branch.norm.eps)):
            state[norm + key].fill_(value)
    state[f'branches.{MAIN_BRANCH}.norm.weight'].fill_(1)
    state[f'branches.{MAIN_BRANCH}.norm.bias'] = bias
    if block.alpha is not None:
        index = block.candidates.index(MAIN_BRANCH)
        state['alpha'][index] = HEAD_START
        if not block.searchable:
            state['active'] = torch.arange(len(block.candidates)) == index
    return state


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
        moments = batch_moments(branch.linear(x, block.weight, BlockCall(block.padding_of(x))))
        if moments is None:
            return
        move_statistics(branch.norm, *moments)
    block.warm_started = False
