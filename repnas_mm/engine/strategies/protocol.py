"""Interface between `RepNASHook` and a strategy of searching."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from ...search.block import Block
from ...search.branch_search import BranchSearch
from ..alpha_optimizer import AlphaOptimizer
from ..phases import Phases

#: α's optimizer in Algorithm 1
PAPER_OPTIMIZER = dict(type='Adam', lr=1e-4, betas=(0.5, 0.999))


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

    def draw(self, runner) -> tuple[np.ndarray, Tensor | None]:
        """Mask of the branches for this iteration, and ζ if α is to learn from them."""

    def freeze(self, runner, data_batch) -> np.ndarray:
        """End the search in front of this iteration; mask of the genotype."""

    def rehearse(self, runner, model: nn.Module, data_batch) -> None:
        """Do to a copy of the runner's model what the end of the search will."""
