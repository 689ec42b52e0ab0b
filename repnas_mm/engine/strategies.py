"""The two ways to search: `Shrink` trains many branches and cuts once; `Sample`, Algorithm 1, draws them.

What differs between them is here, behind one protocol; the schedule that is common is `RepNASHook`.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import quote
from ..models.odbb import ODBBlock
from ..models.start import let_skip_lead, silence_inactive, start_as_mean
from ..models.warm_start import MAIN_BRANCH
from ..search.block import Block, find_blocks
from ..search.branch_search import BranchSearch
from ..search.shrink import ShrinkSearch
from ..search.space import BRANCHES
from .absorbing import absorb_in_next_forward, absorbing
from .alpha_optimizer import AlphaOptimizer
from .fusing import output_of
from .gate_descent import GateDescent
from .phases import Phases
from .recalibrate import gather_statistics, restart_statistics
from .runner_models import final_models
from .training_batches import training_inputs

#: α's optimizer in Algorithm 1
PAPER_OPTIMIZER = dict(type='Adam', lr=1e-4, betas=(0.5, 0.999))
#: What `Shrink` starts with: without the two branches of two operations in a row, whose steps cost more than those of
#: all others together, and without which the search on 40 layers ended no worse (docs/reproduce.md, Deep networks)
CANDIDATES = ('1x1', 'kxk', '1xk', 'kx1', 'skip')


class Strategy(Protocol):
    """The part of a search that `RepNASHook` leaves to a strategy; `BranchSearch` and `AlphaOptimizer` hold state."""

    phases: Phases
    #: True if BN statistics of the search are those of a mixture of networks, which fit none of them
    mixes_statistics: bool

    def new_search(self, blocks: Mapping[str, Block], seed: int = 0) -> BranchSearch:
        """Make the state of a search over ``blocks``, or raise a ValueError if they do not suit it."""

    def build(self, blocks: Mapping[str, Block], runner) -> tuple[BranchSearch, AlphaOptimizer]:
        """Make all state; this early, before the runner loads anything."""

    def start(self, runner) -> None:
        """Begin a training that resumes nothing, once everything is loaded."""

    def learning(self, runner) -> tuple[int, int]:
        """Numbers of the first iteration in which α learns, by the schedule of this run, and of the first behind it."""

    def go_on(self, runner, learning: tuple[int, int] | None) -> None:
        """Begin or continue a training whose genotype is still to come, once everything is loaded.

        Args:
            learning: What `learning` was in the run that wrote the checkpoint.

        Raises:
            ValueError: if the schedule has changed since, in a way in which that search cannot end well.
        """

    def learns(self, runner) -> bool:
        """Return True if α moves in this iteration."""

    def draw(self, runner) -> tuple[np.ndarray, Tensor | None]:
        """Mask of the branches for this iteration, and ζ if α is to get gradients."""

    def freeze(self, runner, data_batch) -> np.ndarray:
        """End the search in front of this iteration; mask of the genotype."""

    def rehearse(self, runner, model: nn.Module, data_batch) -> None:
        """Do to a copy of the runner's model what the end of the search will."""


class Sample:
    """Algorithm 1: other branches in every iteration, by α and noise.

    Args:
        warmup, frozen, num_branches, memory, temperature, alpha_optimizer, candidates: As `RepNASHook`.
    """

    mixes_statistics = True

    def __init__(self, warmup, frozen, num_branches, memory, temperature, alpha_optimizer: dict, candidates=None):
        if candidates is not None:
            raise ValueError(
                "candidates belongs to strategy='shrink'; Algorithm 1 draws from all. Remove it, or set "
                "strategy='shrink'."
            )
        self.phases = Phases(warmup, 0 if frozen is None else frozen)
        self.constraint, self.temperature = (num_branches, memory), temperature
        self.alpha_optimizer_cfg = alpha_optimizer

    def new_search(self, blocks: Mapping[str, Block], seed: int = 0) -> BranchSearch:
        return BranchSearch(blocks, *self.constraint, self.temperature, seed)

    def build(self, blocks: Mapping[str, Block], runner) -> tuple[BranchSearch, AlphaOptimizer]:
        if runner.cfg.get('compile'):
            raise ValueError(
                "strategy='sample' draws other branches in every iteration, and torch.compile would compile each draw "
                "anew; remove compile from the config, or search with strategy='shrink'."
            )
        self.search = self.new_search(blocks, runner.seed or 0)
        alpha_optimizer = AlphaOptimizer(self.search.alphas, runner.optim_wrapper, self.alpha_optimizer_cfg)
        start, end = self.phases.search_span(runner)
        alpha_optimizer.warn_if_too_slow(end - start, runner.logger)
        self.alpha_optimizer = alpha_optimizer
        return self.search, alpha_optimizer

    def start(self, runner) -> None:
        for block in self.search.all_blocks().values():
            if isinstance(block, ODBBlock):
                start_as_mean(block)  # an initialization may have set γ past `ODBBlock.apply`

    def learning(self, runner) -> tuple[int, int]:
        return self.phases.search_span(runner)

    def go_on(self, runner, learning: tuple[int, int] | None) -> None:
        _, end = self.learning(runner)
        if runner.iter >= end and not self.alpha_optimizer.has_stepped:
            raise ValueError(
                f'The run goes on at iteration {runner.iter} with alpha as it was initialized, and its search phase '
                f'would end at {end}; train longer, or shorten frozen.'
            )

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

    def rehearse(self, runner, model: nn.Module, data_batch) -> None:
        gather_statistics(model, [data_batch])  # as for a validation, and in the end without a frozen phase


class Shrink:
    """Many branches first, each with weights of its own; then the lowest-ranked leave at once, absorbed by `kxk`.

    α rests in the first half of the search phase: until the network has begun to learn, its gradients are large and
    say the wrong thing. BN statistics go on behind the cut, since absorbing moves those of `kxk` along.

    Args:
        warmup, frozen, num_branches, memory, temperature, alpha_optimizer, candidates: As `RepNASHook`.
    """

    mixes_statistics = False

    def __init__(self, warmup, frozen, num_branches, memory, temperature, alpha_optimizer: dict, candidates=None):
        self.phases, self.constraint = Phases(warmup, frozen), (num_branches, memory)
        self.candidates = CANDIDATES if candidates is None else _checked(candidates)
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

    def new_search(self, blocks: Mapping[str, Block], seed: int = 0) -> ShrinkSearch:
        check_absorbing(blocks)
        return ShrinkSearch(blocks, *self.constraint, MAIN_BRANCH, self.candidates)

    def build(self, blocks: Mapping[str, Block], runner) -> tuple[BranchSearch, AlphaOptimizer]:
        if runner.cfg.get('compile') and self.constraint[1] is not None:
            raise ValueError(
                'memory looks at the input of every iteration in hooks of the model, which a compiled step passes by; '
                'remove compile from the config, or set num_branches instead.'
            )
        self.search = self.new_search(blocks)
        cfg = dict(type='GateDescent', steps=self._steps(runner))
        self.alpha_optimizer = AlphaOptimizer(self.search.alphas, runner.optim_wrapper, cfg)
        return self.search, self.alpha_optimizer

    def learning(self, runner) -> tuple[int, int]:
        start, end = self.phases.search_span(runner)
        return (start + end) // 2, end

    def _steps(self, runner, first: int = 0) -> int:
        """Steps of α from iteration ``first`` on."""
        begin, end = self.learning(runner)
        steps = (end - max(begin, first)) // getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if steps < 2:
            start, _ = self.phases.search_span(runner)
            raise ValueError(
                f'A search phase of {end - max(start, first)} iterations leaves {max(steps, 0)} steps of alpha in its '
                "second half, and strategy='shrink' needs at least 2; lengthen it."
            )
        return steps

    def go_on(self, runner, learning: tuple[int, int] | None) -> None:
        """Begin or continue, by any schedule as long as α rests, and behind that by one that cuts where it was to."""
        begin, end = self.learning(runner)
        if not self.alpha_optimizer.has_stepped:
            self.alpha_optimizer.optimizer.param_groups[0]['steps'] = self._steps(runner, runner.iter)
        elif learning not in (None, (begin, end)):
            raise ValueError(
                f'Alpha has learned since iteration {learning[0]}, for a cut at {learning[1]}, and would have from '
                f'{begin} to {end} by the schedule of this run; keep warmup and the batch size, train beyond iteration '
                f'{learning[1]}, and set frozen to the epochs or iterations that follow it.'
            )

    def start(self, runner) -> None:
        start_shrinking(self.search)

    def learns(self, runner) -> bool:
        return self.phases.now(runner) == 'search' and runner.iter >= self.learning(runner)[0]

    def draw(self, runner) -> tuple[np.ndarray, Tensor | None]:
        mask, noise = self.search.sample()
        return mask, noise if self.learns(runner) else None

    def freeze(self, runner, data_batch) -> np.ndarray:
        """Choose, and let the model's next forward and EMA's copy absorb what leaves, each with its own numbers.

        So do copies inside them, in their own forward.
        """
        optimizer = self.alpha_optimizer.optimizer
        assert isinstance(optimizer, GateDescent)
        before = self.search.best()
        self.search.apply(before)
        genotype = self.search.cut(*optimizer.path())
        started, kept = self.search.masks_by_block(before), self.search.masks_by_block(genotype)
        *averages, model = final_models(runner)
        for average in averages:
            blocks = find_blocks(average)
            for name, mask in started.items():
                blocks[name].set_active(mask)
            with absorbing(blocks, kept):
                output_of(average, training_inputs(average, data_batch))  # in eval mode, as an average is used
        absorb_in_next_forward(model, self.search.all_blocks(), kept)
        stays, unwanted = np.count_nonzero(genotype), self.search.unwanted
        hint = f', {unwanted} of them below the average of their blocks' if unwanted else ''
        runner.logger.info(f'Cut: {stays} branches stay{hint}; {np.count_nonzero(before) - stays} are absorbed.')
        return genotype

    @torch.no_grad()
    def rehearse(self, runner, model: nn.Module, data_batch) -> None:
        inputs = training_inputs(model, data_batch)
        blocks = find_blocks(model)
        names = self.search.all_blocks()
        kept = {name: torch.tensor([c == MAIN_BRANCH for c in blocks[name].candidates]) for name in names}
        with absorbing(blocks, kept):
            model.train()._run_forward(deepcopy(inputs), mode='loss')
        if len(final_models(runner)) > 1:
            output_of(model, inputs)


def start_shrinking(search: ShrinkSearch) -> None:
    """Make the blocks compute what the search starts with; of branches that nothing was loaded into, let skips lead."""
    blocks = search.all_blocks().values()
    for block in blocks:
        silence_inactive(block)
    search.apply(search.best())
    for block in blocks:
        let_skip_lead(block)


def check_absorbing(blocks: Mapping[str, Block]) -> None:
    """Raise ValueError unless a branch of each block can absorb the others."""
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


def _checked(candidates: Sequence[str]) -> tuple[str, ...]:
    """The names of branches, or a ValueError if one is unknown or `kxk` is missing."""
    names = tuple(candidates) if isinstance(candidates, list | tuple) else ()
    if MAIN_BRANCH not in names or not all(isinstance(name, str) and name in BRANCHES for name in names):
        raise ValueError(
            f'candidates must be a list of names of branches with {MAIN_BRANCH!r} among them, got '
            f'{quote(candidates)}; known branches are {", ".join(BRANCHES)}.'
        )
    return names


STRATEGIES: dict[str, Callable[..., Strategy]] = dict(shrink=Shrink, sample=Sample)


def build_strategy(name: str, *args) -> Strategy:
    """Build the strategy with this name from the arguments of `Sample`."""
    if not isinstance(name, str) or name not in STRATEGIES:
        raise ValueError(f'Unknown strategy {quote(name)} of RepNASHook; known are {", ".join(STRATEGIES)}.')
    return STRATEGIES[name](*args)
