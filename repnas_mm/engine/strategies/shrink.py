"""`Shrink`: all candidates train, then the lowest-ranked leave at once, and the others absorb what they computed."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from ...checks import quote
from ...models.start import let_skip_lead, silence_inactive
from ...models.warm_start import MAIN_BRANCH
from ...search.block import Block, find_blocks
from ...search.branch_search import BranchSearch
from ...search.shrink import ShrinkSearch
from ...search.space import BRANCHES
from ..absorbing import absorb_in_next_forward, absorbing
from ..alpha_optimizer import AlphaOptimizer, only_optimizer
from ..fusing import output_of
from ..gate_descent import GateDescent
from ..phases import Phases
from ..runner_models import final_models
from ..training_batches import training_inputs
from .protocol import PAPER_OPTIMIZER

#: What `Shrink` starts with: without the two branches of two operations in a row, whose steps cost more than those of
#: all others together, and without which the search on 40 layers ended no worse (docs/reproduce.md, Deep networks)
CANDIDATES = ('1x1', 'kxk', '1xk', 'kx1', 'skip')


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
        self.alpha_optimizer = AlphaOptimizer(self.search, only_optimizer(runner.optim_wrapper), cfg)
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

    def draw(self, runner) -> tuple[np.ndarray, Tensor | None]:
        mask, noise = self.search.sample()
        return mask, noise if runner.iter >= self.learning(runner)[0] else None

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
