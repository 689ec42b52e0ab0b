"""The separate optimizer of the architecture parameters α (Algorithm 1), next to an untouched main optimizer."""

from collections.abc import Sequence
from copy import deepcopy
from logging import Logger

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIMIZERS
from torch import nn

from ..checks import explain_errors, quote
from ..search.sampler import NOISE_STD


def take_out(alphas: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Remove α from the groups of the weights' ``optimizer``, which stay: schedulers hold one base value a group."""
    ids = {id(alpha) for alpha in alphas}
    for group in optimizer.param_groups:
        group['params'] = [p for p in group['params'] if id(p) not in ids]


def fill_gradients(alphas: Sequence[nn.Parameter]) -> None:
    """Give the α of blocks outside this forward a zero gradient, so that their optimizer stays dense."""
    for alpha in alphas:
        if alpha.grad is None:
            alpha.grad = torch.zeros_like(alpha)


class AlphaOptimizer:
    """Steps α whenever the main optimizer steps the weights.

    α leaves the main optimizer: its groups lose the parameter, but stay, since schedulers hold one base value a
    group. So the main ``zero_grad`` no longer touches α's gradient, which lives until `finish_iter`.

    Args:
        alphas (list[nn.Parameter]): α of every searched block.
        optim_wrapper (OptimWrapper): The main one, plain or AMP.
        cfg (dict): Config of a torch optimizer.

    Raises:
        ValueError: if there are several main optimizers, or ``cfg`` builds none.
    """

    def __init__(self, alphas: list[nn.Parameter], optim_wrapper: OptimWrapper, cfg: dict):
        if not isinstance(optim_wrapper, OptimWrapper) or isinstance(optim_wrapper, OptimWrapperDict):
            raise ValueError(
                f'RepNASHook needs one OptimWrapper for the whole model, got {type(optim_wrapper).__name__}.'
            )
        self.alphas, self.optim_wrapper = alphas, optim_wrapper
        take_out(alphas, optim_wrapper.optimizer)
        with explain_errors(f'alpha_optimizer={quote(cfg)} builds no optimizer'):
            self.optimizer = OPTIMIZERS.build(dict(cfg, params=alphas))
            self._try_step()
        self._model_stepped = False
        self._scale: float | None = None  # of the loss, in this iteration
        optim_wrapper.optimizer.register_step_post_hook(self._on_model_step)

    @property
    def has_stepped(self) -> bool:
        """True once α has moved, in this run or in that which it resumes."""
        return bool(self.optimizer.state)

    def _on_model_step(self, *_) -> None:
        self._model_stepped = True

    def start_iter(self) -> None:
        """Note, before the forward, the loss scale under which this iteration's gradients are made."""
        self._model_stepped = False
        scaler = getattr(self.optim_wrapper, 'loss_scaler', None)
        self._scale = None if scaler is None else scaler.get_scale()

    def finish_iter(self, update: bool = True) -> bool:
        """Step α, after the main optimizer, if the model was stepped.

        Args:
            update: False only drops the gradients (warm-up).

        Returns:
            True if an accumulation of gradients ended, so that the next iteration starts a new one.
        """
        if not self.optim_wrapper.should_update():
            return False
        if update and self._model_stepped and self._unscale():
            fill_gradients(self.alphas)
            self.optimizer.step()
        self.optimizer.zero_grad()
        return True

    def _unscale(self) -> bool:
        """Divide the loss scale out of α's gradients. False if the scaler skipped the step or they are not finite."""
        if self._scale is None:
            return True
        if self.optim_wrapper.loss_scaler.get_scale() < self._scale:
            return False
        grads = [alpha.grad for alpha in self.alphas if alpha.grad is not None]
        torch._foreach_mul_(grads, 1 / self._scale)
        return bool(torch.stack([grad.isfinite().all() for grad in grads]).all()) if grads else True

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
