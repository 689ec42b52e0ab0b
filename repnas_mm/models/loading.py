"""Checkpoints of a block: of its own form, of another form that it can take, or of an ordinary convolution."""

from collections.abc import MutableMapping

from torch import Tensor

from ..checks import explain_errors
from .foreign import fuse_branches, pop_branches
from .warm_start import MAIN_BRANCH, branch_state, pop_convolution, warm_state


def prepare(block, state_dict: MutableMapping[str, Tensor], prefix: str) -> None:
    """Turn the entries of ``block`` at ``prefix`` into those of its own form, and set its active branches.

    A subnet takes its part of a search; a block that follows its checkpoint becomes the subnet there. A block of other
    code (`repnas_mm.models.foreign`) comes branch by branch where a subnet has all its branches. Ordinary weights, and
    what it computes elsewhere, become those of the main branch, or of the fused convolution.

    Args:
        block: `ODBBlock`.
        state_dict: Changed in place.
        prefix: Of the block's keys, with a dot at its end.

    Raises:
        ValueError: one sentence that names the block, if its form or shapes in the checkpoint do not fit.
    """
    if block.follows_checkpoint and block.alpha is not None:
        _follow(block, state_dict, prefix)
    _rename_delta(state_dict, prefix)
    if (plain := _from_other(block, state_dict, prefix)) is not None:
        state_dict.update({prefix + key: value for key, value in plain.items()})
    elif any(key.startswith(f'{prefix}branches.') for key in state_dict):
        block.warm_started = False  # a resume: the first batch has long passed
    if block.alpha is None and not block.deploy and f'{prefix}alpha' in state_dict:
        _drop_others(block, state_dict, prefix)
    own = block.state_dict()
    given = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    if not given:
        return  # not in this checkpoint, which the loader reports
    block.loaded = True
    _check_keys(block, own, given, prefix)
    _check_shapes(own, given, prefix)
    if block.alpha is not None:
        active = state_dict.pop(f'{prefix}active').tolist()
        if not any(active):
            raise ValueError(f"The checkpoint's '{prefix}active' leaves the block without a branch.")
        block.active_branches = tuple(name for name, kept in zip(block.candidates, active) if kept)


def _rename_delta(state_dict: MutableMapping[str, Tensor], prefix: str) -> None:
    """Take the 1×1 of `1x1_kxk` under the name that it had before it was a module's ``weight``."""
    old = f'{prefix}branches.1x1_kxk.delta'
    if old in state_dict:
        state_dict[f'{old}.weight'] = state_dict.pop(old)


def _follow(block, state_dict: MutableMapping[str, Tensor], prefix: str) -> None:
    """Make a search-form ``block`` a subnet if the checkpoint has one."""
    kept = {key[len(prefix) :].split('.')[1] for key in state_dict if key.startswith(f'{prefix}branches.')}
    if kept and f'{prefix}alpha' not in state_dict:
        block.switch_to_subnet(kept)


def _from_other(block, state_dict: MutableMapping[str, Tensor], prefix: str) -> dict[str, Tensor] | None:
    """State dict of ``block`` that computes the convolution, or other code's block, at ``prefix``, if there is one."""
    branches = pop_branches(block, state_dict, prefix)
    if branches is None:
        convolution = pop_convolution(state_dict, prefix)
        return None if convolution is None else _from_plain(block, prefix, *convolution)
    _check_kernel(block, prefix, branches[MAIN_BRANCH]['weight'])
    with explain_errors(f"The checkpoint's block '{prefix[:-1]}' does not fit"):
        block.check_branches(branches)
    if (
        block.alpha is None
        and not block.deploy
        and not block.share_weights
        and branches.keys() <= block.branches.keys()
    ):
        block.warm_started = False  # their statistics come along
        return branch_state(block, branches)
    eps = 1e-5 if block.deploy else next(iter(block.branches.values())).norm.eps
    return _from_plain(block, prefix, *fuse_branches(block, branches, eps))


def _check_kernel(block, prefix: str, kernel: Tensor) -> None:
    shape = (block.out_channels, block.in_channels // block.groups, block.kernel_size, block.kernel_size)
    if kernel.shape != shape:
        raise ValueError(
            f"The checkpoint's convolution '{prefix[:-1]}' has a kernel of shape {tuple(kernel.shape)}, the "
            f"model's has {shape}; is it of another arch?"
        )


def _from_plain(block, prefix: str, kernel: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """State dict of ``block`` that computes an ordinary convolution."""
    _check_kernel(block, prefix, kernel)
    if block.deploy:
        return {'reparam.weight': kernel, 'reparam.bias': bias}
    if MAIN_BRANCH not in block.branches:
        raise ValueError(
            f"Block '{prefix[:-1]}' has no branch '{MAIN_BRANCH}' to hold the checkpoint's plain convolution; use a "
            f"genotype that keeps '{MAIN_BRANCH}' in every block."
        )
    block.warm_started = True
    return warm_state(block, kernel, bias)


def _drop_others(block, state_dict: MutableMapping[str, Tensor], prefix: str) -> None:
    """Leave of a search's entries those that a subnet has."""
    own = block.state_dict()
    for key in [key for key in state_dict if key.startswith(prefix) and key[len(prefix) :] not in own]:
        del state_dict[key]


def _check_keys(block, own: dict, given: dict, prefix: str) -> None:
    if block.deploy and any(key.startswith('branches.') for key in given):
        raise ValueError(
            f"The checkpoint holds block '{prefix[:-1]}' unfused, but the model has it fused; build the model with "
            'deploy=False.'
        )
    odd = sorted(given.keys() ^ own.keys())
    if not odd:
        return
    there, here = (
        ', '.join(dict.fromkeys(key.split('.')[1] for key in keys if key.startswith('branches.')))
        for keys in (given, own)
    )
    if there == here and not {'weight', *(f'branches.{name}.weight' for name in block.candidates)}.isdisjoint(odd):
        raise ValueError(
            f"The checkpoint's block '{prefix[:-1]}' has share_weights={not block.share_weights}, the model's has "
            f'{block.share_weights}; build the model with share_weights={not block.share_weights}.'
        )
    hint = (
        'it is of another arch.'
        if there == here
        else 'build the model with the genotype and share_weights of the checkpoint.'
    )
    raise ValueError(
        f"The checkpoint's block '{prefix[:-1]}' has branches {there}, the model's has {here}, and they "
        f"differ in '{odd[0]}'; {hint}"
    )


def _check_shapes(own: dict, given: dict, prefix: str) -> None:
    for key, value in own.items():
        if value.shape != given[key].shape:
            raise ValueError(
                f"'{prefix}{key}' has shape {tuple(given[key].shape)} in the checkpoint and {tuple(value.shape)} "
                'in the model; is it of another arch?'
            )
