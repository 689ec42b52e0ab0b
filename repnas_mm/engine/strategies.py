"""The two ways to search: `Shrink` trains all branches and cuts once; `Sample`, Algorithm 1, draws them.

What differs between them is here, behind one protocol; the schedule that is common is `RepNASHook`.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Protocol

import numpy as np
from torch import Tensor

from ..checks import quote
from ..models.odbb import ODBBlock
from ..models.start import let_skip_lead, start_as_mean
from ..models.warm_start import MAIN_BRANCH
from ..search.block import Block, find_blocks
from ..search.branch_search import BranchSearch
from ..search.shrink import ShrinkSearch
from .absorbing import absorbing
from .alpha_optimizer import AlphaOptimizer
from .fusing import network_output
from .gate_descent import GateDescent
from .phases import Phases
from .recalibrate import restart_statistics
from .runner_models import final_models

#: α's optimizer in Algorithm 1
PAPER_OPTIMIZER = dict(type='Adam', lr=1e-4, betas=(0.5, 0.999))


class Strategy(Protocol):
    """The part of a search that `RepNASHook` leaves to a strategy; `BranchSearch` and `AlphaOptimizer` hold state."""

    phases: Phases
    #: True if BN statistics of the search are those of a mixture of networks, which fit none of them
    mixes_statistics: bool

    def build(self, blocks: Mapping[str, Block], runner) -> tuple[BranchSearch, AlphaOptimizer]:
        """Make the state of the search; this early, before the runner loads anything."""

    def start(self, runner) -> None:
        """Begin a training that resumes nothing, once everything is loaded."""

    def learns(self, runner) -> bool:
        """Return True if α moves in this iteration."""

    def draw(self, runner) -> tuple[np.ndarray, Tensor | None]:
        """Mask of the branches for this iteration, and ζ if α is to get gradients."""

    def freeze(self, runner, data_batch) -> np.ndarray:
        """End the search in front of this iteration; mask of the genotype."""


class Sample:
    """Algorithm 1: other branches in every iteration, by α and noise.

    Args:
        warmup, frozen, num_branches, memory, temperature, alpha_optimizer: As `RepNASHook`.
    """

    mixes_statistics = True

    def __init__(self, warmup, frozen, num_branches, memory, temperature, alpha_optimizer: dict):
        self.phases = Phases(warmup, 0 if frozen is None else frozen)
        self.constraint, self.temperature = (num_branches, memory), temperature
        self.alpha_optimizer_cfg = alpha_optimizer

    def build(self, blocks: Mapping[str, Block], runner) -> tuple[BranchSearch, AlphaOptimizer]:
        self.search = BranchSearch(blocks, *self.constraint, self.temperature, runner.seed or 0)
        alpha_optimizer = AlphaOptimizer(self.search.alphas, runner.optim_wrapper, self.alpha_optimizer_cfg)
        alpha_optimizer.warn_if_too_slow(self.phases.search_steps(runner), runner.logger)
        return self.search, alpha_optimizer

    def start(self, runner) -> None:
        for block in self.search.all_blocks().values():
            if isinstance(block, ODBBlock):
                start_as_mean(block)  # an initialization may have set γ past `ODBBlock.apply`

    def learns(self, runner) -> bool:
        return self.phases.now(runner) == 'search'

    def draw(self, runner) -> tuple[np.ndarray, Tensor | None]:
        mask, noise = self.search.sample()
        return mask, noise if self.learns(runner) else None

    def freeze(self, runner, data_batch) -> np.ndarray:
        genotype = self.search.best()
        self.search.apply(genotype)
        restart_statistics(runner.model)
        runner.logger.info(f'Genotype frozen: {np.count_nonzero(genotype)} branches; BN statistics start anew.')
        return genotype


class Shrink:
    """All branches first, each with weights of its own; then the lowest-ranked leave at once, absorbed by `kxk`.

    α rests in the first half of the search phase: until the network has begun to learn, its gradients are large and
    say the wrong thing. BN statistics go on behind the cut, since absorbing moves those of `kxk` along.

    Args:
        warmup, frozen, num_branches, memory, temperature, alpha_optimizer: As `RepNASHook`.
    """

    mixes_statistics = False

    def __init__(self, warmup, frozen, num_branches, memory, temperature, alpha_optimizer: dict):
        self.phases, self.constraint = Phases(warmup, frozen), (num_branches, memory)
        if temperature != 1 or alpha_optimizer != PAPER_OPTIMIZER:
            raise ValueError(
                "temperature and alpha_optimizer belong to strategy='sample', and the default is 'shrink'; remove "
                "them, or set strategy='sample' and, as older configs meant, share_weights=True in the model."
            )
        if frozen == 0:
            raise ValueError(
                "strategy='shrink' cuts where the frozen phase begins, and frozen is 0; set it to the epochs or "
                'iterations that train after the cut, about 0.8 of all.'
            )

    def build(self, blocks: Mapping[str, Block], runner) -> tuple[BranchSearch, AlphaOptimizer]:
        for name, block in blocks.items():
            if block.share_weights:
                raise ValueError(
                    f"Block '{name}' shares one kernel between its branches, and strategy='shrink' needs a kernel for "
                    "each; build the model with share_weights=False, or search with strategy='sample'."
                )
            if MAIN_BRANCH not in block.candidates or not hasattr(block, 'absorb'):
                raise ValueError(
                    f"Block '{name}' has no branch '{MAIN_BRANCH}' that could absorb others, as strategy='shrink' "
                    "needs; search with strategy='sample'."
                )
        wrapper, iterations = runner.optim_wrapper, self.phases.search_steps(runner)
        self.begin = iterations // 2
        steps = (iterations - self.begin) // getattr(wrapper, '_accumulative_counts', 1)
        if steps < 2:
            raise ValueError(
                f'A search phase of {iterations} iterations leaves {steps} steps of alpha in its second half, and '
                "strategy='shrink' needs at least 2; lengthen it."
            )
        self.search = ShrinkSearch(blocks, *self.constraint, MAIN_BRANCH)
        self.alpha_optimizer = AlphaOptimizer(self.search.alphas, wrapper, dict(type='GateDescent', steps=steps))
        return self.search, self.alpha_optimizer

    def start(self, runner) -> None:
        for block in self.search.all_blocks().values():
            let_skip_lead(block)

    def learns(self, runner) -> bool:
        return self.phases.now(runner) == 'search' and self.phases.searched(runner) >= self.begin

    def draw(self, runner) -> tuple[np.ndarray, Tensor | None]:
        mask, noise = self.search.sample()
        return mask, noise if self.learns(runner) else None

    def freeze(self, runner, data_batch) -> np.ndarray:
        """Choose, and let the model's next forward and EMA's copy absorb what leaves, each with its own numbers.

        So do copies inside them, in their own forward.
        """
        optimizer = self.alpha_optimizer.optimizer
        assert isinstance(optimizer, GateDescent)
        self.search.apply(self.search.best())
        genotype = self.search.cut(*optimizer.path())
        kept = self.search.masks_by_block(genotype)
        *averages, model = final_models(runner)
        for average in averages:
            with absorbing(find_blocks(average), kept):
                network_output(average, data_batch)  # in eval mode, in which an average is used
        stack = ExitStack()
        stack.enter_context(absorbing(self.search.all_blocks(), kept))
        stack.callback(model.register_forward_hook(lambda *_: stack.close()).remove)
        stays = np.count_nonzero(genotype)
        runner.logger.info(f'Cut: {stays} branches stay, {len(genotype) - stays} are absorbed.')
        return genotype


STRATEGIES: dict[str, Callable[..., Strategy]] = dict(shrink=Shrink, sample=Sample)


def build_strategy(name: str, *args) -> Strategy:
    """Build the strategy with this name from the arguments of `Sample`."""
    if not isinstance(name, str) or name not in STRATEGIES:
        raise ValueError(f'Unknown strategy {quote(name)} of RepNASHook; known are {", ".join(STRATEGIES)}.')
    return STRATEGIES[name](*args)
