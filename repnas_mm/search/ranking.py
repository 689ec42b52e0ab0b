"""A ranking of branches that can be trusted on a short search: each α drawn towards the mean of its kind.

After a few hundred steps single values of α are mostly noise, while their mean over all blocks, by kind of branch, is
not. How far an α is to be trusted is estimated and not set: by its standard error, against the spread of α within its
kind (empirical Bayes; Efron & Morris 1975, Data analysis using Stein's estimator and its generalizations, JASA 70).
With large standard errors branches rank by kind, with small ones by α alone.
"""

from collections.abc import Sequence

import numpy as np

#: No variance counts as less than this part of the median one: an α that hardly moved is not known exactly
FLOOR = 1e-3


def end_variance(squared_differences: np.ndarray, stretches: int) -> np.ndarray:
    """Variance of the end of a path, from its increments d over equal stretches: n · mean(½ (d_{i+1} - d_i)²).

    Successive differences (von Neumann 1941, Distribution of the ratio of the mean square successive difference to the
    variance, Ann. Math. Stat. 12), because a slow drift of the increments is no noise. Assumed is that the noise of one
    stretch does not depend on that of the next.

    Args:
        squared_differences: (J,), sum of (d_{i+1} - d_i)² over the path, one a candidate.
        stretches: n, the number of increments; with fewer than 2 nothing is known, and all variances are 1.
    """
    if stretches < 2:
        return np.ones_like(squared_differences)
    return stretches * squared_differences / (2 * (stretches - 1))


def mean_and_spread(alpha: np.ndarray, variance: np.ndarray) -> tuple[float, float]:
    """Estimate μ and τ² of α_j ~ N(θ_j, v_j), θ_j ~ N(μ, τ²), by moments (DerSimonian & Laird 1986).

    With w = 1/v, the mean m = Σwα/Σw and Q = Σw(α - m)², which is n - 1 on the average where τ = 0::

        τ² = max(0, (Q - (n - 1)) / (Σw - Σw²/Σw))        μ = Σw'α/Σw',  w' = 1/(v + τ²)

    Source: Meta-analysis in clinical trials, Controlled Clinical Trials 7.

    Args:
        alpha, variance: (n,), α and its squared standard error, above 0.
    """
    weight = 1 / variance
    total = weight.sum()
    spread = 0.0
    if len(alpha) > 1:
        q = (weight * (alpha - (weight * alpha).sum() / total) ** 2).sum()
        spread = max(0.0, (q - (len(alpha) - 1)) / (total - (weight**2).sum() / total))
        weight = 1 / (variance + spread)
    return float((weight * alpha).sum() / weight.sum()), float(spread)


def pooled(alpha: np.ndarray, variance: np.ndarray, kinds: Sequence[str]) -> np.ndarray:
    """Estimate what each α would be after a long search: μ + τ²/(τ² + v) · (α - μ), (J,), by kind of branch.

    Args:
        alpha, variance: (J,), α and its squared standard error.
        kinds: (J,), the branch's name.
    """
    if not (variance > 0).any():
        return alpha.copy()
    variance = np.maximum(variance, FLOOR * np.median(variance[variance > 0]))
    names, scores = np.asarray(kinds), alpha.copy()
    for kind in np.unique(names):
        own = names == kind
        mean, spread = mean_and_spread(alpha[own], variance[own])
        scores[own] = mean + spread / (spread + variance[own]) * (alpha[own] - mean)
    return scores


def ranks(alpha: np.ndarray, variance: np.ndarray, kinds: Sequence[str]) -> np.ndarray:
    """Ranks (J,) by `pooled`, from 0 for the worst branch; where it is equal, as within a kind at τ = 0, by α."""
    order = np.lexsort((alpha, pooled(alpha, variance, kinds)))
    result = np.empty(len(alpha))
    result[order] = np.arange(len(alpha))
    return result
