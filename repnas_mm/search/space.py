"""The Rep search space (paper 3.2): the branches that a block may have, the size of the space, uniform draws."""

import random
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import comb
from typing import Any

from torch import nn

from ..checks import quote
from .copies import find_originals

#: Branch name -> branch class, in the order in which every block lists its candidates. Filled by `register_branch`.
BRANCHES: dict[str, type[Any]] = {}

Candidates = Mapping[str, Sequence[str]]


def register_branch(name: str):
    """Class decorator: add a branch to the search space under ``name``."""

    def register(cls: type[Any]) -> type[Any]:
        if name in BRANCHES:
            raise ValueError(f"Branch '{name}' is registered twice; choose another name.")
        BRANCHES[name] = cls
        cls.name = name
        return cls

    return register


def candidates(in_channels: int, out_channels: int, stride: int) -> tuple[str, ...]:
    """List the branches that exist in a block of this shape, in the fixed order (``skip``: stride 1 and in = out)."""
    return tuple(name for name, cls in BRANCHES.items() if cls.exists(in_channels, out_channels, stride))


def find_candidates(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Name -> candidate branches of every ODBB block in ``model``; copies (`find_copies`) have those of their twins."""
    return {name: block.candidates for name, block in find_originals(model).items()}


def check_num_branches(num_branches: int, candidates: Candidates) -> None:
    """Raise ValueError unless ``num_branches`` can be kept with at least one branch in every block."""
    total = sum(len(names) for names in candidates.values())
    if not isinstance(num_branches, int) or isinstance(num_branches, bool):
        raise TypeError(f'num_branches must be an integer, got {quote(num_branches)}.')
    if num_branches < len(candidates):
        raise ValueError(
            f'num_branches={quote(num_branches)} is less than the {len(candidates)} ODBB blocks of the model, each of '
            f'which keeps at least one branch; choose a number from {len(candidates)} to {total}.'
        )
    if num_branches > total:
        raise ValueError(
            f'num_branches={quote(num_branches)} is more than the {total} candidate branches of the model; '
            f'choose a number from {len(candidates)} to {total}.'
        )


def space_size(candidates: Candidates, num_branches: int | None = None) -> int:
    """Number of architectures in the space, exactly.

    Args:
        candidates: Block name -> candidate branches.
        num_branches: None counts every on/off choice, as the paper does (2^149 for A0, whose 22 blocks have 149
            candidates; the paper's 2.29e105 is 2^350, that is 50 blocks of seven). A number counts only what a
            search may return: that many branches, at least one a block.
    """
    if num_branches is None:
        return 2 ** sum(len(names) for names in candidates.values())
    check_num_branches(num_branches, candidates)
    return _ways([len(names) for names in candidates.values()], num_branches)[0][num_branches]


def sample_blocks(candidates: Candidates, num_branches: int, rng: random.Random) -> dict[str, tuple[str, ...]]:
    """One architecture drawn uniformly from all that keep ``num_branches`` branches, at least one a block."""
    check_num_branches(num_branches, candidates)
    ways = _ways([len(names) for names in candidates.values()], num_branches)
    left, drawn = num_branches, {}
    for i, (block, names) in enumerate(candidates.items()):
        sizes = range(1, min(len(names), left) + 1)
        weights = [comb(len(names), k) * ways[i + 1][left - k] for k in sizes]
        pick = rng.randrange(sum(weights))
        size = next(k for k, below in zip(sizes, accumulate(weights)) if pick < below)
        kept = set(rng.sample(range(len(names)), size))
        drawn[block] = tuple(name for j, name in enumerate(names) if j in kept)
        left -= size
    return drawn


def _ways(sizes: list[int], total: int) -> list[list[int]]:
    """Count, in ``ways[i][c]``, the ways in which blocks i, i+1, ... keep c branches together, at least one each."""
    ways = [[0] * (total + 1) for _ in range(len(sizes) + 1)]
    ways[-1][0] = 1
    for i in reversed(range(len(sizes))):
        for c in range(total + 1):
            ways[i][c] = sum(comb(sizes[i], k) * ways[i + 1][c - k] for k in range(1, min(sizes[i], c) + 1))
    return ways
