"""The sampling of Algorithm 1 (paper 3.4): noise, importance, global ranking, constraint.

Everything here works on flat vectors, one entry a candidate branch of the whole model, in the order of its blocks.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

#: Standard deviation of ζ
NOISE_STD = math.pi / math.sqrt(3)


def logistic_noise(size: int, generator: torch.Generator) -> Tensor:
    """Draw ζ ~ Logistic(0, 1), (size,) float32 on the CPU: log u - log(1 - u), u uniform in (0, 1)."""
    u = torch.rand(size, generator=generator, dtype=torch.float64)
    return torch.logit(u, eps=1e-12).float()


def importance(alpha: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute Z = sigmoid((α + ζ) / λ), Eq. 11 with the sign of Eq. 12: a larger α means keep."""
    return torch.sigmoid((alpha + noise) / temperature)


def gate_slope(alpha: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute ∂z/∂α = Z(1 - Z)/λ of the kept branches, whose z itself is 1 (Eq. 12, 13)."""
    z = importance(alpha, noise, temperature)
    return z * (1 - z) / temperature


def rank(scores: np.ndarray, block_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Candidate indices from best to worst, split into each block's own best and all others.

    No block may lose its last branch, which would cut the network: its best one is kept before the global ranking
    decides about the rest. Ties go to the earlier candidate.
    """
    order = np.argsort(-scores, kind='stable')
    _, first = np.unique(block_ids[order], return_index=True)
    return order[np.sort(first)], np.delete(order, first)


def keep_number(scores: np.ndarray, block_ids: np.ndarray, num_branches: int) -> np.ndarray:
    """Bool mask of exactly ``num_branches`` candidates: each block's best, then by global rank (Eq. 13)."""
    best, rest = rank(scores, block_ids)
    mask = np.zeros(len(scores), dtype=bool)
    mask[best] = True
    mask[rest[: num_branches - len(best)]] = True
    return mask


def keep_memory(
    scores: np.ndarray, block_ids: np.ndarray, budget: int, block_bytes: Callable[[int, tuple[int, ...]], int]
) -> np.ndarray:
    """Bool mask of each block's best candidate, then of others by global rank until one does not fit ``budget``.

    Args:
        scores: (N,) importance or any increasing function of it.
        block_ids: (N,) number of the block each candidate belongs to.
        budget: Bytes of activations that may be saved for backward.
        block_bytes: (block number, kept candidates of that block, counted within it) -> bytes. Asked for whole
            blocks, because what branches share does not add up.
    """
    best, rest = rank(scores, block_ids)
    start = np.searchsorted(block_ids, np.arange(block_ids[-1] + 2))
    mask = np.zeros(len(scores), dtype=bool)

    def cost(block: int) -> int:
        kept = np.flatnonzero(mask[start[block] : start[block + 1]])
        return block_bytes(int(block), tuple(kept.tolist()))

    mask[best] = True
    costs = np.array([cost(block) for block in range(len(start) - 1)], dtype=np.int64)
    if costs.sum() > budget:
        raise ValueError(
            f'memory={budget} bytes is less than the {costs.sum()} bytes that one branch a block needs at this batch '
            'size; raise memory or lower the batch size.'
        )
    for candidate in rest:
        block = block_ids[candidate]
        mask[candidate] = True
        before, costs[block] = costs[block], cost(block)
        if costs.sum() > budget:
            mask[candidate], costs[block] = False, before
            break
    return mask
