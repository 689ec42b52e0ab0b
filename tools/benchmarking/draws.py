"""The gates under which the search is measured: random ones, as when it starts, and a genotype, as when it ends."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor, nn

from repnas_mm.search import BranchSearch, find_blocks, resolve_genotype

from .naive import naive_blocks

#: The one arch whose searched genotype the paper's authors published
CONVERGED = {'A0': 'odbb_a0_authors'}


def searches(backbone: nn.Module, rival: nn.Module, num_branches: int) -> tuple[BranchSearch, BranchSearch]:
    """Searches at C = ``num_branches`` over the blocks of ``backbone`` and over those of its naive copy ``rival``."""
    return BranchSearch(find_blocks(backbone), num_branches), BranchSearch(naive_blocks(rival), num_branches)


def draws(search: BranchSearch, same: BranchSearch, arch: str, random: int, fixed: int) -> Iterator[str]:
    """Set the gates of two searches over the same network alike; yields what they are: random or converged.

    Random gates are what the first search draws, so many times; converged ones are the authors' genotype, if there is
    one for the arch.
    """

    def set_gates(mask: np.ndarray, noise: Tensor) -> None:
        search.apply(mask, noise)
        same.apply(mask, noise)

    for _ in range(random):
        set_gates(*search.sample())
        yield 'random'
    if arch in CONVERGED:
        genotype = resolve_genotype(CONVERGED[arch], search.candidates)
        mask = np.array([name in genotype[block] for block, names in search.candidates.items() for name in names])
        for _ in range(fixed):
            set_gates(mask, search.sample()[1])
            yield 'converged'
