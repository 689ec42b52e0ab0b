"""The optimal diverse branch block (paper 3.2): many linear branches while training, one convolution afterwards."""

from collections.abc import Iterable

import torch
import torch.utils.checkpoint as cp
from mmcv.cnn import build_activation_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..checks import check_counts, check_flags, explain_errors, is_count, quote
from ..registry import register
from ..search.space import BRANCHES, candidates
from . import loading, reparam
from .absorb import absorb
from .block_call import BlockCall, PastCalls
from .branches import new_kernel
from .fast import stem
from .start import start_as_mean
from .warm_start import adopt_statistics


@register('MODELS')
class ODBBlock(BaseModule):
    """Optimal diverse branch block: ``act(sum_j branch_j(x))`` over up to seven linear branches.

    A block lives in three forms, one after the other:

    * *search* (``branches=None``): every branch that exists for this shape, and one entry of ``alpha`` for each.
      `set_active` says which of them the next forward computes; at first all of them.
    * *subnet* (``branches=('kxk', '1x1')``): only these branches, no ``alpha``.
    * *deploy* (``deploy=True``): one convolution with bias, ``reparam``.

    `switch_to_subnet` and `switch_to_deploy` take a block from one form to the next in place. All three compute the
    same in eval mode.

    A block also loads ordinary weights, and then computes in eval mode what they did: a fused block's, or those of
    mmpretrain's RepVGG block in either mode. All of it goes into branch ``kxk``; the others start from zero.

    Args:
        in_channels (int): Input channels.
        out_channels (int): Output channels.
        kernel_size (int): K of the K×K window, odd and at least 3. The padding is dilation * (K // 2).
            Defaults to 3.
        stride (int): Defaults to 1.
        groups (int): Groups of every convolution. Defaults to 1.
        dilation (int): Of every window that is wider than a pixel. Defaults to 1.
        branches (Sequence[str], optional): The branches of a subnet-form block. Defaults to None: search form.
        share_weights (bool): Whether all branches use center crops of one K×K kernel (Eq. 5) or each has its own
            weights. The BNs of shared branches start with γ = 1 / number of branches. Defaults to False.
        norm_cfg (dict): BN or SyncBN. Defaults to ``dict(type='BN')``.
        act_cfg (dict, optional): None for no activation. Defaults to ``dict(type='ReLU', inplace=True)``.
        with_cp (bool): Recompute the branches in backward instead of keeping their activations; BN statistics are
            updated once all the same. Defaults to False.
        deploy (bool): Build the fused form. Defaults to False.
        init_cfg (dict, optional): Defaults to None.

    Shapes:
        (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).

    Example:
        >>> block = ODBBlock(8, 8)
        >>> block.candidates
        ('1x1', 'kxk', '1x1_kxk', '1x1_avg', '1xk', 'kx1', 'skip')
        >>> block.switch_to_subnet(('kxk', 'skip'))
        >>> block.switch_to_deploy()
    """

    #: True if a subnet's checkpoint turns a search-form block into that subnet, where the config cannot name branches
    follows_checkpoint = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        branches: Iterable[str] | None = None,
        share_weights: bool = False,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict | None = dict(type='ReLU', inplace=True),
        with_cp: bool = False,
        deploy: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if not is_count(kernel_size, 3) or kernel_size % 2 == 0:
            raise ValueError(
                f'kernel_size of an ODBBlock must be an odd integer of at least 3, got {quote(kernel_size)}.'
            )
        check_counts('an ODBBlock', in_channels=in_channels, out_channels=out_channels)
        check_counts('an ODBBlock', stride=stride, groups=groups, dilation=dilation)
        check_flags('an ODBBlock', share_weights=share_weights, with_cp=with_cp, deploy=deploy)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f'groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}.')
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.groups = kernel_size, stride, groups
        self.dilation: int | tuple[int, int] = dilation
        self.padding = (kernel_size // 2 * dilation,) * 2
        self.share_weights = share_weights
        self.with_cp = with_cp
        self.deploy = deploy
        self.candidates = candidates(in_channels, out_channels, stride)
        kept = self.candidates if branches is None else self.check_branches(branches)
        with explain_errors(f'act_cfg={quote(act_cfg)} builds no activation'):
            self.act = nn.Identity() if act_cfg is None else build_activation_layer(act_cfg)
        # True after ordinary weights were loaded, until the first training batch has passed
        self.warm_started = False
        self._past_calls = PastCalls()
        #: True after any weights were loaded: an initialization no longer sets how the branches start
        self.loaded = False

        self.register_parameter('weight', None)
        self.register_parameter('alpha', None)
        #: Names of the branches that the next forward computes, in the fixed order
        self.active_branches = kept
        if deploy:
            self.reparam = self._new_reparam()
            return
        self.branches = nn.ModuleDict({name: self.new_branch(name, norm_cfg, share_weights) for name in kept})
        if share_weights and any(branch.uses_kernel for branch in self.branches.values()):
            self.weight = new_kernel(out_channels, in_channels // groups, kernel_size, kernel_size)
            start_as_mean(self)
        if branches is None:
            # small and random, so that a ranking of untrained alphas does not prefer early blocks
            self.alpha = nn.Parameter(1e-3 * torch.randn(len(kept)))

    def check_branches(self, branches: Iterable[str]) -> tuple[str, ...]:
        """``branches`` in the fixed order, or a ValueError that says which one is wrong."""
        if isinstance(branches, str):
            raise TypeError(f'branches must be a sequence of names, got the string {quote(branches)}.')
        if not isinstance(branches, Iterable):
            raise TypeError(f'branches must be a sequence of names, got {quote(branches)}.')
        branches = tuple(branches)
        for name in branches:
            if not isinstance(name, str) or name not in BRANCHES:
                raise ValueError(f'Unknown branch {quote(name)}; known branches are {", ".join(BRANCHES)}.')
            if name not in self.candidates:
                raise ValueError(
                    f"Branch '{name}' does not exist in a block with in_channels={self.in_channels}, "
                    f'out_channels={self.out_channels}, stride={self.stride}; it can have '
                    f'{", ".join(self.candidates)}.'
                )
        if not branches:
            raise ValueError('A block needs at least one branch, got none.')
        return tuple(name for name in self.candidates if name in branches)

    def new_branch(self, name: str, norm_cfg: dict, shared: bool) -> nn.Module:
        """Build a branch of this block's shape, as in Fig. 3, outside of `branches`."""
        shape = (self.in_channels, self.out_channels, self.kernel_size, self.stride, self.groups)
        return BRANCHES[name](*shape, _pair(self.dilation)[0], norm_cfg, shared)

    @property
    def kernel(self) -> nn.Parameter | None:
        """The K×K kernel that the branches share, `weight` in a checkpoint; None where each has its own."""
        return self._parameters['weight']

    @property
    def searchable(self) -> bool:
        """True if a search may choose among this block's branches: search form, and neither α nor a BN is frozen."""
        if self.alpha is None or not self.alpha.requires_grad:
            return False
        return all(p.requires_grad for branch in self.branches.values() for p in branch.norm.parameters())

    @property
    def active(self) -> Tensor | None:
        """One bool a candidate, True for `active_branches`, as checkpoints hold it; None but in search form."""
        if self.alpha is None:
            return None
        return torch.tensor([name in self.active_branches for name in self.candidates])

    def set_active(self, active: Tensor | Iterable[bool]) -> None:
        """Compute only these candidates from the next forward on (search form): one bool each, at least one True."""
        if self.alpha is None:
            raise RuntimeError('set_active is for blocks in search form; this one is a subnet or fused.')
        mask = torch.as_tensor(active, dtype=torch.bool).tolist()
        if len(mask) != len(self.candidates) or not any(mask):
            raise ValueError(
                f'active must have one bool for each of {", ".join(self.candidates)}, at least one of them True, '
                f'got {mask}.'
            )
        self.active_branches = tuple(name for name, kept in zip(self.candidates, mask) if kept)

    @torch.no_grad()
    def gate_gradients(self) -> Tensor:
        """Gradient of the loss for the gate z_j of each candidate, (number of candidates,); 0 where it is not active.

        A gate is 1 and scales a branch (Eq. 12, 13), and a branch ends with ``γ * u + β``. So ∂L/∂z is the sum of
        γ ∂L/∂γ + β ∂L/∂β over the channels, and a gate costs nothing in forward and backward. Read it after backward
        and before the step of the optimizer; gradients of several backward passes add up in it.
        """
        norms = [self.branches[name].norm for name in self.active_branches]
        parameters = [p for norm in norms for p in (norm.weight, norm.bias)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        products = torch.stack(parameters) * torch.stack(gradients)
        gates = products.new_zeros(len(self.candidates))
        gates[[self.candidates.index(name) for name in self.active_branches]] = products.view(len(norms), -1).sum(1)
        return gates

    def forward(self, x: Tensor) -> Tensor:
        if self.deploy:
            return self.act(self.reparam(x))
        if self.warm_started and self.training:
            adopt_statistics(self, x)
        how = self.padding_of(x), not self.with_cp
        # a compiler plans what backward computes again, and traces neither a past call nor a recipe
        keeps_calls = self.training and not torch.compiler.is_compiling()
        call = self._past_calls.begin(x, *how) if keeps_calls else BlockCall(*how)
        if self.with_cp and x.requires_grad:
            out = cp.checkpoint(self._sum_branches, x, call, use_reentrant=False, preserve_rng_state=False)
        else:
            out = self._sum_branches(x, call)
        return self.act(out)

    def padding_of(self, x: Tensor) -> tuple[int, int, int, int]:
        """Zero pixels left of, right of, above and below ``x`` for the K×K window."""
        rows, cols = self.padding
        return cols, cols, rows, rows

    def _sum_branches(self, x: Tensor, call: BlockCall) -> Tensor:
        with call:
            if stem.applies(self, x, call):
                return stem.forward(self, x, call)
            out = None
            for name in self.active_branches:
                y = self.branches[name](x, self.kernel, call)
                # in place: BN's backward needs its input, not its output
                out = y if out is None else out.add_(y)
        return out

    @torch.no_grad()
    def get_equivalent_kernel_bias(self) -> tuple[Tensor, Tensor]:
        """Kernel (out, in // groups, K, K) and bias (out,) of the one convolution that equals the active branches.

        In eval mode. Computed in float64 and returned in the parameters' dtype; the block does not change (Eq. 1-4).
        """
        if self.deploy:
            return self.reparam.weight.detach(), self.reparam.bias.detach()
        kernel, bias = reparam.add_kernels([self.branches[n].equivalent(self.kernel) for n in self.active_branches])
        dtype = next(self.branches.parameters()).dtype
        return kernel.to(dtype), bias.to(dtype)

    def switch_to_subnet(self, branches: Iterable[str] | None = None) -> None:
        """Keep only these branches (default: the active ones) for good; no search after that. In place."""
        if self.deploy:
            raise RuntimeError('A fused ODBBlock has no branches left to choose from; start from the unfused model.')
        kept = self.active_branches if branches is None else self.check_branches(branches)
        missing = [name for name in kept if name not in self.branches]
        if missing:
            raise ValueError(f"Branch '{missing[0]}' is not among this subnet's {', '.join(self.branches)}.")
        self.branches = nn.ModuleDict({name: self.branches[name] for name in kept})
        if not any(branch.uses_kernel for branch in self.branches.values()):
            self.weight = None
        self.alpha = None
        self.active_branches = kept

    def absorb(self, branches: Iterable[str], x: Tensor) -> None:
        """Let active branches leave for good, after `kxk` has taken over what they compute. In place.

        See `repnas_mm.models.absorb`: in eval mode the block computes the same as before for every input, in training
        mode for ``x``. In search form the branches stay in the module, inactive; a subnet loses them.

        Args:
            branches: Names of active branches, without ``kxk``.
            x: (N, in, H, W), input of the block.

        Raises:
            RuntimeError: for a fused block.
            ValueError: if a branch is not active, or is ``kxk``, or if ``kxk`` is not active or shares its kernel with
                a branch that stays.
        """
        absorb(self, branches, x)

    def switch_to_deploy(self) -> None:
        """Fuse the active branches into one convolution with bias. In place; a fused block stays as it is."""
        if self.deploy:
            return
        kernel, bias = self.get_equivalent_kernel_bias()
        self.reparam = self._new_reparam().to(device=kernel.device, dtype=kernel.dtype)
        self.reparam.weight.data, self.reparam.bias.data = kernel, bias
        self.reparam.train(self.training)
        self.reparam.requires_grad_(any(p.requires_grad for p in self.branches.parameters()))
        del self.branches
        self.weight = self.alpha = None
        self.deploy = True

    def _new_reparam(self) -> nn.Conv2d:
        return nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )

    def apply(self, fn):
        """Apply ``fn`` to every submodule; where it set all γ to 1, as MMEngine's initialization does, they start."""
        super().apply(fn)
        if not self.deploy:
            start_as_mean(self)
        return self

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.alpha is not None:
            destination[f'{prefix}active'] = self.active

    def _load_from_state_dict(self, state_dict, prefix, *args):
        loading.prepare(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        form = 'deploy' if self.deploy else 'subnet' if self.alpha is None else 'search'
        return (
            f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, '
            f'groups={self.groups}, dilation={self.dilation}, share_weights={self.share_weights}, '
            f'with_cp={self.with_cp}, form={form}'
        )
