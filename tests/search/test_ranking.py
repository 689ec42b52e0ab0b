"""The ranking of a short search, on simulated α: by kind where they are noise, by α alone where they are not."""

import numpy as np
import pytest

from repnas_mm.search.ranking import end_variance, mean_and_spread, pooled, ranks

KINDS = np.repeat(['1x1', 'kxk', 'skip'], 40)


def simulate(error, spread=0.3, seed=0):
    """Means by kind -0.2, 0, 0.5, true α around them, and α seen with a standard error."""
    rng = np.random.default_rng(seed)
    true = np.repeat([-0.2, 0.0, 0.5], 40) + spread * rng.standard_normal(120)
    return true, true + error * rng.standard_normal(120), np.full(120, error**2)


@pytest.mark.parametrize('seed', range(5))
def test_noise_ranks_by_kind(seed):
    _, alpha, variance = simulate(error=0.6, spread=0.0, seed=seed)
    best, raw = (np.argsort(-scores)[:40] for scores in (ranks(alpha, variance, KINDS), alpha))
    assert np.mean(KINDS[best] == 'skip') >= 0.95
    assert np.mean(KINDS[raw] == 'skip') < 0.6


def test_a_long_search_ranks_by_alpha_alone():
    _, alpha, variance = simulate(error=1e-4)
    assert np.array_equal(np.argsort(ranks(alpha, variance, KINDS)), np.argsort(alpha))


@pytest.mark.parametrize('seed', range(5))
def test_in_between_the_estimate_is_nearer_to_the_truth_than_alpha(seed):
    true, alpha, variance = simulate(error=0.5, seed=seed)
    assert np.mean((pooled(alpha, variance, KINDS) - true) ** 2) < 0.7 * np.mean((alpha - true) ** 2)


def test_mean_and_spread_are_found_again():
    rng = np.random.default_rng(0)
    variance = rng.uniform(0.1, 1.0, 20000)
    alpha = 2.0 + rng.standard_normal(20000) * np.sqrt(0.5 + variance)
    mean, spread = mean_and_spread(alpha, variance)
    assert abs(mean - 2.0) < 0.03 and abs(spread - 0.5) < 0.03


@pytest.mark.parametrize('scale', [1e-6, 1e6])
def test_the_scale_of_alpha_does_not_matter(scale):
    _, alpha, variance = simulate(error=0.5)
    assert np.array_equal(ranks(alpha, variance, KINDS), ranks(scale * alpha, scale**2 * variance, KINDS))


def test_a_kind_with_one_member_is_its_own_mean():
    alpha, variance = np.array([0.3, -0.2, 0.1]), np.ones(3)
    scores = pooled(alpha, variance, ['skip', 'kxk', 'kxk'])
    assert scores[0] == 0.3
    assert scores[1] == scores[2] == pytest.approx(-0.05)
    assert ranks(alpha, variance, ['skip', 'kxk', 'kxk']).tolist() == [2, 0, 1]  # the tie goes to the larger α


def test_an_alpha_that_never_moved_is_not_taken_for_certain():
    alpha, variance = np.array([0.0, 1.0, -1.0, 0.5]), np.array([0.0, 1.0, 1.0, 1.0])
    assert np.isfinite(pooled(alpha, variance, ['kxk'] * 4)).all()
    assert pooled(alpha, np.zeros(4), ['kxk'] * 4).tolist() == alpha.tolist()


@pytest.mark.parametrize('drift', [0.0, 0.1])
def test_the_variance_is_that_of_the_noise_and_not_of_a_drift(drift):
    rng = np.random.default_rng(0)
    increments = rng.standard_normal((16, 5000)) + drift * np.arange(16)[:, None]
    squares = (np.diff(increments, axis=0) ** 2).sum(0)
    assert end_variance(squares, 16).mean() == pytest.approx(16, rel=0.03)
    assert increments.sum(0).var() == pytest.approx(16, rel=0.05)


def test_of_one_stretch_nothing_is_known():
    assert end_variance(np.zeros(3), 1).tolist() == [1, 1, 1]
