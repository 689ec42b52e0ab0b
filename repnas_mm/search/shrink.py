"""A search that starts with all branches and ends with one cut: `ShrinkSearch`."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .block import Block
from .branch_search import BranchSearch
from .ranking import end_variance, ranks


class ShrinkSearch(BranchSearch):
    """Keeps every candidate active until `cut`; nothing is drawn.

    Args:
        blocks (Mapping[str, Block]): Name -> searchable block.
        num_branches (int): C, what the cut leaves over all blocks.
        trunk (str): Branch that stays in every block.
    """

    def __init__(self, blocks: Mapping[str, Block], num_branches: int | None, trunk: str):
        super().__init__(blocks, num_branches)
        self.kinds = [name for names in self.candidates.values() for name in names]
        self.trunk = trunk

    def best(self) -> np.ndarray:
        """Mask of all candidates, which train together and compute something sensible only together."""
        return np.ones(len(self.kinds), dtype=bool)

    def sample(self) -> tuple[np.ndarray, Tensor]:
        """Mask of all candidates and ζ = 0: Eq. 12 without noise."""
        return self.best(), torch.zeros(len(self.kinds))

    def cut(self, squared_differences: np.ndarray, stretches: int) -> np.ndarray:
        """Mask of what stays: the trunk of every block, then by rank over the whole network.

        Args:
            squared_differences, stretches: Of the path of α, as `ranking.end_variance` takes them.
        """
        scores = ranks(self.alpha_values(), end_variance(squared_differences, stretches), self.kinds)
        scores[np.array(self.kinds) == self.trunk] = np.inf
        return self.keep(scores)
