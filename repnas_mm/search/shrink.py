"""A search that starts with many branches and ends with one cut: `ShrinkSearch`."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from .block import Block
from .branch_search import BranchSearch
from .ranking import end_variance, pooled, ranks


class ShrinkSearch(BranchSearch):
    """Keeps the same candidates active until `cut`; nothing is drawn.

    Args:
        blocks (Mapping[str, Block]): Name -> searchable block.
        num_branches (int, optional): C, what the cut leaves over all blocks.
        memory (int | str, optional): Or the bytes of activations to save for backward, by which the cut chooses. Where
            all candidates do not fit them, blocks recompute until the cut (``with_cp``).
        trunk (str): Branch that stays in every block.
        kinds (Sequence[str]): The branches to start with, the trunk among them; others are never computed.

    Raises:
        ValueError: if the search starts with fewer than ``num_branches``.
    """

    def __init__(
        self,
        blocks: Mapping[str, Block],
        num_branches: int | None,
        memory: int | str | None,
        trunk: str,
        kinds: Sequence[str],
    ):
        super().__init__(blocks, num_branches, memory)
        self._recompute = False
        #: Branches that `cut` kept although the loss asked for less of them than of others in their blocks
        self.unwanted = 0
        self.kinds = [name for names in self.candidates.values() for name in names]
        self.trunk, self._start = trunk, np.isin(self.kinds, list(kinds))
        if num_branches is not None and num_branches > (count := np.count_nonzero(self._start)):
            raise ValueError(
                f'num_branches={num_branches} is more than the {count} branches that the search starts with, which '
                f'are {", ".join(kinds)} where a block has them; lower it, or name more candidates in RepNASHook.'
            )

    def best(self) -> np.ndarray:
        """Mask of all that the search starts with, which train together and are of use only together."""
        return self._start.copy()

    def sample(self) -> tuple[np.ndarray, Tensor]:
        """Mask of all that the search starts with and ζ = 0: Eq. 12 without noise."""
        return self.best(), torch.zeros(len(self.kinds))

    def keep_again(self) -> np.ndarray:
        return self.best()

    def _check_memory(self) -> None:
        """Let blocks recompute from now on if they must.

        Raises:
            ValueError: if what the search starts with does not fit even so, or the costliest choice behind the cut
                does not.
        """
        assert self.memory is not None
        self._set_with_cp(False)
        super()._check_memory()
        for self._recompute in (False, True):
            self._set_with_cp(self._recompute)
            needed = self.genotype_bytes(self.best())
            if needed <= self.memory:
                return
        raise ValueError(
            f'memory={self.memory} bytes is less than the {needed} bytes that all branches need at this '
            "batch size where blocks recompute, with which strategy='shrink' starts; raise memory or lower the batch "
            'size.'
        )

    def apply(self, mask: np.ndarray, noise: Tensor | None = None) -> None:
        """Make the blocks compute the masked branches, and recompute if they must, as long as it is all of them."""
        super().apply(mask, noise)
        if self.memory is not None:
            all_active = np.array_equal(mask, self._start)
            self._set_with_cp(self._recompute_genotype or (self._recompute and all_active))

    def keep(self, scores: np.ndarray) -> np.ndarray:
        """Mask of what stays: the trunk of every block, then by ``scores`` over what the search started with."""
        if self.memory is not None:
            self._set_with_cp(False)  # as the branches that stay will be computed
        scores = np.where(self._start, scores, -np.inf)
        # `memory` may have room for more than the search started with
        return self._start & super().keep(np.where(np.array(self.kinds) == self.trunk, np.inf, scores))

    def cut(self, squared_differences: np.ndarray, stretches: int) -> np.ndarray:
        """Mask of what stays by rank.

        Args:
            squared_differences, stretches: Of the path of α, as `ranking.end_variance` takes them.
        """
        estimate = self.alpha_values(), end_variance(squared_differences, stretches), self.kinds
        kept = self.keep(ranks(*estimate))
        optional = kept & (np.array(self.kinds) != self.trunk)
        self.unwanted = int(np.count_nonzero(pooled(*estimate)[optional] < 0))
        return kept
