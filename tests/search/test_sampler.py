"""Noise, importance, slopes of gates and ranking (paper 3.4) against slow references written from Eq. 11 to 13."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repnas_mm.search.sampler import gate_slope, importance, keep_memory, keep_number, logistic_noise


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x) without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


# ---------------------------------------------------------------------------------------------------- noise


@pytest.fixture(scope='module')
def noise():
    return logistic_noise(200_000, torch.Generator().manual_seed(0))


@pytest.mark.parametrize('x', [-6.0, -3.0, -1.0, -0.25, 0.0, 0.5, 1.0, 2.0, 4.0])
def test_noise_has_the_logistic_distribution(noise, x):
    p = sigmoid(x)
    below = (noise <= x).double().mean().item()
    assert abs(below - p) < 4 * math.sqrt(p * (1 - p) / len(noise))


def test_noise_has_the_moments_of_the_logistic_distribution(noise):
    variance = math.pi**2 / 3
    assert abs(noise.double().mean().item()) < 4 * math.sqrt(variance / len(noise))
    # the kurtosis of the logistic distribution is 4.2, so the variance of a square is (4.2 - 1) * variance²
    assert abs(noise.double().var().item() - variance) < 4 * variance * math.sqrt(3.2 / len(noise))


@pytest.mark.parametrize('u', [0.0, 2.0**-53, 0.5, 1 - 2.0**-53])
def test_noise_is_finite_for_every_uniform_number(monkeypatch, u):
    monkeypatch.setattr(torch, 'rand', lambda size, dtype, **_: torch.full((size,), u, dtype=dtype))
    noise = logistic_noise(3, torch.Generator())
    assert noise.dtype == torch.float32
    assert noise.isfinite().all()


def test_noise_is_reproduced_by_the_generator_alone():
    first = logistic_noise(50, torch.Generator().manual_seed(3))
    torch.manual_seed(99)
    assert torch.equal(first, logistic_noise(50, torch.Generator().manual_seed(3)))
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(first, torch.cat([logistic_noise(20, generator), logistic_noise(30, generator)]))
    assert not torch.equal(first, logistic_noise(50, torch.Generator().manual_seed(4)))


def test_noise_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    logistic_noise(10, torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


# --------------------------------------------------------------------------------------- importance, slopes


@given(alpha=st.floats(-30, 30), zeta=st.floats(-30, 30), temperature=st.floats(0.1, 10))
@settings(deadline=None)
def test_importance_is_equation_11_with_the_sign_of_equation_12(alpha, zeta, temperature):
    z = importance(torch.tensor(alpha, dtype=torch.float64), torch.tensor(zeta, dtype=torch.float64), temperature)
    assert z.item() == pytest.approx(sigmoid((alpha + zeta) / temperature), rel=1e-12)


def test_a_larger_alpha_is_more_important():
    z = importance(torch.linspace(-5, 5, 101), torch.zeros(101))
    assert (z.diff() > 0).all()


@given(alpha=st.floats(-30, 30), zeta=st.floats(-30, 30), temperature=st.floats(0.1, 10))
@settings(deadline=None)
def test_the_slope_of_a_gate_is_that_of_equation_12(alpha, zeta, temperature):
    slope = gate_slope(torch.tensor(alpha, dtype=torch.float64), torch.tensor(zeta, dtype=torch.float64), temperature)
    z = sigmoid((alpha + zeta) / temperature)
    # 1 - Z is known to one unit in the last place of 1
    assert slope.item() == pytest.approx(z * (1 - z) / temperature, rel=1e-10, abs=2**-52 / temperature)


def test_a_gate_has_no_slope_where_it_saturates_and_never_nan():
    alpha = torch.tensor([-1e30, -1e4, 1e4, 1e30])
    assert gate_slope(alpha, torch.zeros(4)).tolist() == [0, 0, 0, 0]


# -------------------------------------------------------------------------------------------- global ranking


def by_rank(scores: list[float], candidates: list[int]) -> list[int]:
    """Selection sort, best first; the earlier of two equals first."""
    left, ranked = list(candidates), []
    while left:
        best = left[0]
        for candidate in left[1:]:
            if scores[candidate] > scores[best]:
                best = candidate
        ranked.append(best)
        left.remove(best)
    return ranked


def best_of_each_block(scores: list[float], block_ids: list[int]) -> list[int]:
    blocks = sorted(set(block_ids))
    return [by_rank(scores, [i for i, b in enumerate(block_ids) if b == block])[0] for block in blocks]


@st.composite
def scored_blocks(draw):
    """Blocks of one to seven branches with scores that are often equal."""
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    block_ids = [block for block, size in enumerate(sizes) for _ in range(size)]
    score = st.one_of(st.integers(-2, 2).map(float), st.floats(-1e6, 1e6))
    scores = draw(st.lists(score, min_size=len(block_ids), max_size=len(block_ids)))
    return scores, block_ids


@given(data=st.data(), problem=scored_blocks())
@settings(deadline=None)
def test_keep_number_keeps_each_blocks_best_then_the_global_best(data, problem):
    scores, block_ids = problem
    c = data.draw(st.integers(len(set(block_ids)), len(scores)))
    mask = keep_number(np.array(scores), np.array(block_ids), c)

    kept = set(best_of_each_block(scores, block_ids))
    for candidate in by_rank(scores, range(len(scores))):
        if len(kept) < c:
            kept.add(candidate)
    assert mask.dtype == bool
    assert mask.sum() == c
    assert set(np.flatnonzero(mask).tolist()) == kept


def test_a_hopeless_block_keeps_its_best_branch():
    mask = keep_number(np.array([9.0, 8.0, 7.0, -9.0, -8.0]), np.array([0, 0, 0, 1, 1]), 3)
    assert mask.tolist() == [True, True, False, False, True]


def additive(block: int, kept: tuple[int, ...]) -> int:
    """Every branch costs its own bytes."""
    return sum(3 + 2 * block + branch for branch in kept)


def not_additive(block: int, kept: tuple[int, ...]) -> int:
    """A base a block, branches 0 and 3 share a convolution, and every third branch is free."""
    shared = 7 if {0, 3} & set(kept) else 0
    return 5 * (block + 1) + shared + sum(4 + branch for branch in kept if branch not in (0, 3) and branch % 3 != 2)


def keep_memory_reference(scores, block_ids, budget, cost):
    """Branches in rank order until the first that does not fit, every total counted from scratch."""

    def total(kept):
        blocks = sorted(set(block_ids))
        return sum(cost(b, tuple(i - block_ids.index(b) for i in sorted(kept) if block_ids[i] == b)) for b in blocks)

    kept = best_of_each_block(scores, block_ids)
    if total(kept) > budget:
        return None
    for candidate in by_rank(scores, [i for i in range(len(scores)) if i not in kept]):
        if total([*kept, candidate]) > budget:
            break
        kept.append(candidate)
    return set(kept), total(kept)


@pytest.mark.parametrize('cost', [additive, not_additive])
@given(problem=scored_blocks(), budget=st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_keep_memory_keeps_in_rank_order_until_the_first_that_does_not_fit(cost, problem, budget):
    scores, block_ids = problem
    expected = keep_memory_reference(scores, block_ids, budget, cost)
    if expected is None:
        with pytest.raises(ValueError, match=f'memory={budget} bytes is less than'):
            keep_memory(np.array(scores), np.array(block_ids), budget, cost)
        return
    kept, total = expected
    mask = keep_memory(np.array(scores), np.array(block_ids), budget, cost)
    assert set(np.flatnonzero(mask).tolist()) == kept
    assert total <= budget


def test_keep_memory_does_not_look_past_the_first_that_does_not_fit():
    # ranks: 0, then 1 (too large), then 2, which would fit
    bytes_of = [1, 9, 1]
    scores, block_ids = np.array([3.0, 2.0, 1.0]), np.zeros(3, dtype=int)
    mask = keep_memory(scores, block_ids, 5, lambda _, kept: sum(bytes_of[j] for j in kept))
    assert mask.tolist() == [True, False, False]


def test_keep_memory_says_in_one_sentence_that_one_branch_a_block_is_too_much():
    with pytest.raises(ValueError) as e:
        keep_memory(np.zeros(4), np.array([0, 0, 1, 1]), 5, lambda *_: 3)
    message = str(e.value)
    assert 'memory=5 bytes' in message and '6 bytes' in message
    assert message.count('. ') == 0 and message.endswith('.')
