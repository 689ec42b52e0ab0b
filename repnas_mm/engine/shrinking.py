"""The search of `RepNASHook` for a training loop in plain PyTorch, without MMEngine's runner."""

import torch
from torch import nn

from ..models.warm_start import MAIN_BRANCH
from ..search.block import find_blocks
from ..search.genotype import Genotype
from ..search.shrink import ShrinkSearch
from .absorbing import absorb_in_next_forward
from .alpha_optimizer import AlphaOptimizer
from .gate_descent import GateDescent
from .strategies import CANDIDATES, check_absorbing, start_shrinking


class Shrinking:
    """Trains many branches of a model's blocks, then lets the lowest-ranked leave; the loop stays as it is.

    The schedule is that of ``RepNASHook(strategy='shrink')``: five kinds of branches train for a fifth of the steps,
    in whose second half α learns, and then ``num_branches`` of them stay. Every step of ``optimizer`` counts, so that
    gradients may be accumulated, and one that a ``GradScaler`` skips does not. Call `finish` when the training has
    ended.

    Args:
        model (nn.Module): With ODBB blocks, as `to_odbb` makes them, on its device.
        optimizer (torch.optim.Optimizer): Of the weights; α is taken out of it.
        num_branches (int): C, the number of branches to keep over all blocks.
        steps (int): Steps of ``optimizer`` in the whole training.

    Example:
        >>> model = to_odbb(timm.create_model('resnet18'))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> search = Shrinking(model, optimizer, num_branches=40, steps=epochs * len(loader))
        >>> ...  # train as ever
        >>> genotype = search.finish()
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, num_branches: int, steps: int):
        self.model, self._step, self._cut = model, 0, steps // 5
        self._learns_from = self._cut // 2
        if self._cut - self._learns_from < 2:
            raise ValueError(f'steps={steps} are too few for a search, whose alpha learns in a tenth; give 20 or more.')
        blocks = {name: block for name, block in find_blocks(model).items() if block.searchable}
        check_absorbing(blocks)
        self.search = ShrinkSearch(blocks, num_branches, None, MAIN_BRANCH, CANDIDATES)
        cfg = dict(type='GateDescent', steps=self._cut - self._learns_from)
        self._alpha_optimizer = AlphaOptimizer(self.search, optimizer, cfg)
        start_shrinking(self.search)
        self._handle = optimizer.register_step_post_hook(lambda *_: self._count_step())

    def _count_step(self) -> None:
        """Set the branches of the next step, and whether α learns from it."""
        self._step += 1
        if self._step == self._learns_from:
            self.search.apply(*self.search.sample())
        elif self._step == self._cut:
            self.search.apply(self.search.best())
            descent = self._alpha_optimizer.optimizer
            assert isinstance(descent, GateDescent)
            kept = self.search.masks_by_block(self.search.cut(*descent.path()))
            absorb_in_next_forward(self.model, self.search.blocks, kept)

    def finish(self) -> Genotype:
        """Drop for good what has left, and return what stays; the model can be fused then.

        Raises:
            RuntimeError: if the optimizer has not stepped far enough for branches to have left.
        """
        if self._step <= self._cut:
            raise RuntimeError(
                f'Branches leave after {self._cut} steps of the optimizer, which has made {self._step}; train on, or '
                'give Shrinking fewer steps.'
            )
        self._handle.remove()
        self._alpha_optimizer.handle.remove()
        for block in self.search.blocks.values():
            block.switch_to_subnet()
        return Genotype.from_model(self.model)
