"""The separate optimizer of the architecture parameters α (Algorithm 1), next to an untouched main optimizer."""

from copy import deepcopy
from logging import Logger

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIMIZERS

from ..checks import explain_errors, quote
from ..search.branch_search import BranchSearch
from ..search.sampler import NOISE_STD


def only_optimizer(optim_wrapper: OptimWrapper) -> torch.optim.Optimizer:
    """The optimizer of the whole model, or a ValueError if there are several."""
    if not isinstance(optim_wrapper, OptimWrapper) or isinstance(optim_wrapper, OptimWrapperDict):
        raise ValueError(f'RepNASHook needs one OptimWrapper for the whole model, got {type(optim_wrapper).__name__}.')
    return optim_wrapper.optimizer


class AlphaOptimizer:
    """Steps α whenever the main optimizer steps the weights, by the gradients that these have then.

    So gradients may be accumulated, a step that a ``GradScaler`` skips is none of α's either, and clipping comes first.
    α leaves the main optimizer: its groups lose the parameter, but stay, since schedulers hold one base value a group.

    Args:
        search (BranchSearch): Says which gradients α gets, and when.
        optimizer (torch.optim.Optimizer): The main one, of the weights.
        cfg (dict): Config of a torch optimizer.

    Raises:
        ValueError: if ``cfg`` builds none.
    """

    def __init__(self, search: BranchSearch, optimizer: torch.optim.Optimizer, cfg: dict):
        #: True if α has moved since it was last set to False
        self.moved = False
        self._search = search
        ids = {id(alpha) for alpha in search.alphas}
        for group in optimizer.param_groups:
            group['params'] = [p for p in group['params'] if id(p) not in ids]
        with explain_errors(f'alpha_optimizer={quote(cfg)} builds no optimizer'):
            self.optimizer = OPTIMIZERS.build(dict(cfg, params=search.alphas))
            self._try_step()
        # before the step, because the gradients fit the weights as they are then
        #: Of the hook in the main optimizer; its ``remove`` ends all steps of α
        self.handle = optimizer.register_step_pre_hook(self._step)

    @property
    def has_stepped(self) -> bool:
        """True once α has moved, in this run or in that which it resumes."""
        return bool(self.optimizer.state)

    @torch.compiler.disable  # counters in it would make a compiled training step compile again and again
    def _step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        """Step α, where it has something to learn from, in front of the main ``optimizer``."""
        if any(argument is not None for argument in (*args[1:], kwargs.get('closure'))):
            raise ValueError(
                'Alpha learns from the gradients in front of a step of the optimizer, and a closure makes them inside '
                'of it; call backward first, and step() without a closure.'
            )
        # of a fused optimizer, which skips the step and divides by the loss scale itself
        scale, skips = getattr(optimizer, 'grad_scale', None), getattr(optimizer, 'found_inf', None)
        if not skips and self._search.read_gradients(1 if scale is None else 1 / scale):
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.moved = True

    def warn_if_too_slow(self, steps: int, logger: Logger) -> None:
        """Warn if α cannot outgrow the noise in so many steps, so that it could not decide what is drawn."""
        lr = self.optimizer.param_groups[0]['lr']
        # Adam moves by about lr a step
        if steps * lr < NOISE_STD:
            logger.warning(
                f'Search phase of {steps} steps at alpha lr {lr:g}: alpha moves by about {steps * lr:.2g}, less than '
                f'the noise that draws the branches (standard deviation {NOISE_STD:.1f}), so that the genotype will be '
                "near random. Raise the lr of alpha_optimizer or train longer; on the paper's schedules steps x lr is "
                '24 to 120.'
            )

    def state_dict(self) -> dict:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict) -> None:
        with explain_errors("The checkpoint's state of alpha_optimizer does not fit"):
            self.optimizer.load_state_dict(state)
            self._try_step()

    def _try_step(self) -> None:
        """Raise, as a step would, what torch finds wrong with its arguments or its loaded state only then."""
        trial = deepcopy(self.optimizer)
        alphas = [alpha for group in trial.param_groups for alpha in group['params']]
        for alpha in alphas:
            alpha.grad = torch.zeros_like(alpha)
        trial.step()
        if not all(alpha.isfinite().all() for alpha in alphas):
            raise ValueError('its steps make alpha NaN or Inf')
