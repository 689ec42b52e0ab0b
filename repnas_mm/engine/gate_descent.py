"""The optimizer of α for a search that has all branches: plain descent, normalized over the network."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..registry import register

#: Equal stretches into which the path of α is cut, for the standard error of where it ends
STRETCHES = 16


@register('OPTIMIZERS')
class GateDescent(torch.optim.Optimizer):
    """α ← α - g / rms(g) / steps, with the root mean square over the gates of the whole network.

    Unlike Adam it leaves the sizes of the gates' gradients to each other, so that α adds up what a branch does for the
    loss, and every step counts alike. As 1/steps is the rate, |α| stays below about 1, where the sigmoid's slope is the
    same for all. A constant factor of all gradients, such as a loss scale, does not matter. A step whose gradients are
    not finite, or all 0, is skipped.

    The state is what the standard error of α needs: its value at the last boundary of a stretch, the increment of the
    last stretch, and the sum of squared successive differences of the increments.

    Args:
        params: α of every searched block.
        steps (int): Number of steps to come, at least 2.
    """

    def __init__(self, params, steps: int):
        super().__init__(params, dict(steps=steps))

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        alphas = [alpha for group in self.param_groups for alpha in group['params']]
        rms = torch.cat([alpha.grad for alpha in alphas]).square().mean().sqrt().item()
        if not 0 < rms < math.inf:
            return
        for group in self.param_groups:
            steps = group['steps']
            stretches = min(steps, STRETCHES)
            ends = {round(steps * (i + 1) / stretches) for i in range(stretches)}
            for alpha in group['params']:
                state = self.state[alpha]
                if not state:
                    state.update(
                        step=0,
                        stretches=0,
                        boundary=alpha.clone(),
                        increment=torch.zeros_like(alpha),
                        squares=torch.zeros_like(alpha),
                    )
                alpha.sub_(alpha.grad, alpha=1 / (rms * steps))
                state['step'] += 1
                if state['step'] in ends:
                    _end_stretch(state, alpha)

    def path(self) -> tuple[np.ndarray, int]:
        """Sum of squared differences of successive increments, (number of gates,), and the number of stretches."""
        alphas = [alpha for group in self.param_groups for alpha in group['params']]
        states = [self.state.get(alpha, {}) for alpha in alphas]
        squares = [state.get('squares', torch.zeros_like(alpha)) for alpha, state in zip(alphas, states)]
        return torch.cat(squares).double().cpu().numpy(), states[0].get('stretches', 0)


def _end_stretch(state: dict[str, Any], alpha: Tensor) -> None:
    increment = alpha - state['boundary']
    if state['stretches']:
        state['squares'] += (increment - state['increment']).square()
    state.update(stretches=state['stretches'] + 1, boundary=alpha.clone(), increment=increment)
