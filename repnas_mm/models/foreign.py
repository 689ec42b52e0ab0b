"""Multi-branch blocks of other code in a checkpoint: RepVGG's, DBB's and ACNet's, under the names of their authors."""

import re
from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import explain_errors
from . import reparam

#: Branch -> its entries by our keys
Branches = Mapping[str, Mapping[str, Tensor]]

_NORM = ('weight', 'bias', 'running_mean', 'running_var')


class Layout(NamedTuple):
    """Names in a block of other code: branch -> module in it -> their module; '' is the branch's own convolution."""

    name: str
    #: Their convolution, once fused
    fused: str
    branches: Mapping[str, Mapping[str, str]]


def _repvgg(name: str, fused: str, full: str, pointwise: str, skip: str, norm: str = 'bn') -> Layout:
    pairs = dict(kxk=full, **{'1x1': pointwise})
    branches = {branch: {'': f'{their}.conv', 'norm': f'{their}.{norm}'} for branch, their in pairs.items()}
    return Layout(name, fused, {**branches, 'skip': {'norm': skip}})


_DBB = {
    'kxk': {'': 'dbb_origin.conv', 'norm': 'dbb_origin.bn'},
    '1x1': {'': 'dbb_1x1.conv', 'norm': 'dbb_1x1.bn'},
    '1x1_kxk': {
        'pointwise': 'dbb_1x1_kxk.idconv1',
        'inner_norm': 'dbb_1x1_kxk.bn1.bn',
        '': 'dbb_1x1_kxk.conv2',
        'norm': 'dbb_1x1_kxk.bn2',
    },
    '1x1_avg': {'': 'dbb_avg.conv', 'inner_norm': 'dbb_avg.bn.bn', 'norm': 'dbb_avg.avgbn'},
}
_ACNET = {
    branch: {'': f'{their}_conv', 'norm': f'{their}_bn'}
    for branch, their in {'kxk': 'square', '1xk': 'hor', 'kx1': 'ver'}.items()
}
LAYOUTS = (
    _repvgg('RepVGG', 'branch_reparam', 'branch_3x3', 'branch_1x1', 'branch_norm', 'norm'),  # mmpretrain's
    _repvgg('official RepVGG', 'rbr_reparam', 'rbr_dense', 'rbr_1x1', 'rbr_identity'),  # and mmyolo's
    _repvgg("timm's RepVGG", 'reparam_conv', 'conv_kxk', 'conv_1x1', 'identity'),
    Layout('official DBB', 'dbb_reparam', _DBB),
    Layout('official ACNet', 'fused_conv', _ACNET),
)
#: What names a fused convolution in a block: ours first
FUSED = ('reparam', *(layout.fused for layout in LAYOUTS))


def pop_branches(block, state_dict: MutableMapping[str, Tensor], prefix: str) -> Branches | None:
    """Take a block of one of the `LAYOUTS` at ``prefix`` out of ``state_dict``; None where there is none.

    Args:
        block: `ODBBlock`, whose branches they are to be.

    Raises:
        ValueError: if it is not whole, or has parts that are no branch of ours.
    """
    keys = {key[len(prefix) :] for key in state_dict if key.startswith(prefix)}
    layout = next((one for one in LAYOUTS if f'{one.branches["kxk"][""]}.weight' in keys), None)
    if layout is None:
        return None
    block_name = prefix[:-1]
    roots = {their.split('.')[0] for parts in layout.branches.values() for their in parts.values()}
    theirs = {key: state_dict.pop(prefix + key) for key in keys if key.split('.')[0] in roots}
    found: dict[str, dict[str, Tensor]] = {}
    with explain_errors(f"The checkpoint's {layout.name} block '{block_name}' is not whole"):
        for branch, parts in layout.branches.items():
            if not any(key.startswith(f'{their}.') for key in theirs for their in parts.values()):
                continue
            found[branch] = state = {}
            for ours, their in parts.items():
                if ours.endswith('norm'):
                    state.update({f'{ours}.{name}': theirs.pop(f'{their}.{name}') for name in _NORM})
                    tracked = theirs.pop(f'{their}.num_batches_tracked', torch.tensor(0))
                    state[f'{ours}.num_batches_tracked'] = tracked
                else:
                    state[_kernel_key(block, branch) if ours else 'weight'] = theirs.pop(f'{their}.weight')
    if theirs:
        raise ValueError(
            f"The checkpoint's {layout.name} block '{block_name}' has '{min(theirs)}', which is in no branch here; "
            'fuse the network by its own switch_to_deploy and load that.'
        )
    return found


def fuse_branches(block, branches: Branches, eps: float) -> reparam.Pair:
    """Kernel (out, in // groups, K, K) and bias (out,) of such a block; ``eps`` of its BNs, as no checkpoint has it."""
    pairs = []
    for name, state in branches.items():
        branch = _new_branch(block, name, eps)
        with explain_errors(f"Branch '{name}' of the checkpoint does not fit"):
            branch.load_state_dict(state)
        pairs.append(branch.equivalent(None))
    dtype = branches['kxk']['weight'].dtype
    kernel, bias = reparam.add_kernels(pairs)
    return kernel.to(dtype), bias.to(dtype)


def _new_branch(block, name: str, eps: float = 1e-5) -> torch.nn.Module:
    with torch.device('meta'):  # without the random numbers of an initialization
        branch = block.new_branch(name, dict(type='BN', eps=eps), False).double()
    return branch.to_empty(device='cpu')


def _kernel_key(block, branch: str) -> str:
    """Key of the first of two kernels of ``branch``."""
    return next(n for n, p in _new_branch(block, branch).named_parameters() if p.dim() == 4 and n != 'weight')


def rename_network(state_dict: MutableMapping[str, Tensor], prefix: str) -> None:
    """Give the blocks of an official or timm's RepVGG at ``prefix`` the names that ours and mmpretrain's have."""
    for key in [key for key in state_dict if key.startswith(f'{prefix}stage')]:
        name = re.sub(r'^stage(\d+)\.', r'stage_\1.', key[len(prefix) :]).replace('stage_0.', 'stem.', 1)
        name = re.sub(r'^stages\.(\d+)\.', lambda match: f'stage_{int(match[1]) + 1}.', name)
        if prefix + name != key:
            state_dict[prefix + name] = state_dict.pop(key)


def check_prefix(state_dict: Mapping[str, Tensor], model: torch.nn.Module) -> None:
    """Raise ValueError for a bare official or timm's RepVGG where the model has it as its backbone.

    MMEngine would log that nothing fits, and train on from random weights.
    """
    bare = re.compile(r'(module\.)?(stage0|stage1\.0|stages\.0\.0)\.(rbr_|conv_kxk\.|reparam_conv\.)')
    if hasattr(model, 'backbone') and any(map(bare.match, state_dict)):
        raise ValueError(
            "The checkpoint is an official or timm's RepVGG without a 'backbone.' before its names; load it by "
            "init_cfg=dict(type='Pretrained', checkpoint=...) of the backbone, or convert it by mmpretrain's "
            'tools/model_converters/repvgg_to_mmpretrain.py.'
        )
