"""`Sample`: the paper's Algorithm 1."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from ...models.odbb import ODBBlock
from ...models.start import start_as_mean
from ...search.block import Block
from ...search.branch_search import BranchSearch
from ..alpha_optimizer import AlphaOptimizer, only_optimizer
from ..phases import Phases
from ..recalibrate import gather_statistics, restart_statistics


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
        optimizer = only_optimizer(runner.optim_wrapper)
        alpha_optimizer = AlphaOptimizer(self.search, optimizer, self.alpha_optimizer_cfg)
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

    def draw(self, runner) -> tuple[np.ndarray, Tensor | None]:
        mask, noise = self.search.sample()
        return mask, noise if self.phases.now(runner) == 'search' else None

    def freeze(self, runner, data_batch) -> np.ndarray:
        genotype = self.search.best()
        self.search.apply(genotype)
        restart_statistics(runner.model)
        runner.logger.info(f'Genotype frozen: {np.count_nonzero(genotype)} branches; BN statistics start anew.')
        return genotype

    def rehearse(self, runner, model: nn.Module, data_batch) -> None:
        gather_statistics(model, [data_batch])  # as for a validation, and in the end without a frozen phase
