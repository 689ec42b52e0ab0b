"""How large the search space is, and that random architectures are uniform draws from it."""

import random
from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from repnas_mm.models import ODBBBackbone
from repnas_mm.search import BRANCHES, find_blocks, find_candidates, sample_blocks, space_size
from repnas_mm.search.space import candidates, check_num_branches

SEVEN = ('1x1', 'kxk', '1x1_kxk', '1x1_avg', '1xk', 'kx1', 'skip')


def everything(space: dict, num_branches: int) -> list[tuple]:
    """Every architecture of that many branches, at least one a block, by trying all on/off choices."""
    valid = []
    for bits in product([False, True], repeat=sum(map(len, space.values()))):
        left, blocks = iter(bits), []
        for names in space.values():
            blocks.append(tuple(name for name in names if next(left)))
        if sum(bits) == num_branches and all(blocks):
            valid.append(tuple(blocks))
    return valid


def test_a_block_has_seven_branches_in_the_fixed_order():
    assert tuple(BRANCHES) == SEVEN
    assert candidates(8, 8, 1) == SEVEN


@pytest.mark.parametrize('shape', [(8, 8, 2), (8, 16, 1), (8, 16, 2)])
def test_a_block_that_changes_shape_has_no_skip(shape):
    assert candidates(*shape) == SEVEN[:-1]


def test_a0_has_2_to_the_149_architectures():
    space = find_candidates(ODBBBackbone('A0'))
    assert len(space) == 22
    assert Counter(map(len, space.values())) == {7: 17, 6: 5}
    assert space_size(space) == 2**149


def test_the_papers_size_is_fifty_blocks_of_seven():
    size = space_size({str(i): SEVEN for i in range(50)})
    assert size == 2**350
    assert f'{size:.2e}' == '2.29e+105'


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3), data=st.data())
@settings(deadline=None)
def test_space_size_counts_what_a_search_may_return(sizes, data):
    space = {str(i): SEVEN[:n] for i, n in enumerate(sizes)}
    c = data.draw(st.integers(len(sizes), sum(sizes)))
    assert space_size(space, c) == len(everything(space, c))


@pytest.mark.parametrize(
    'space, c',
    [
        ({'a': SEVEN[:3], 'b': SEVEN[:3], 'c': SEVEN[:2]}, 4),
        ({'a': SEVEN[:5], 'b': SEVEN[:2]}, 3),
        ({'a': SEVEN[:1], 'b': SEVEN[:4], 'c': SEVEN[:2]}, 5),
    ],
)
def test_draws_are_uniform_over_all_architectures(space, c):
    valid, rng = everything(space, c), random.Random(0)
    drawn = Counter(tuple(sample_blocks(space, c, rng).values()) for _ in range(20_000))
    assert set(drawn) <= set(valid)
    assert chisquare([drawn[architecture] for architecture in valid]).pvalue > 1e-3


@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=8), data=st.data())
@settings(deadline=None)
def test_a_draw_keeps_exactly_what_was_asked(sizes, data):
    space = {str(i): SEVEN[:n] for i, n in enumerate(sizes)}
    c = data.draw(st.integers(len(sizes), sum(sizes)))
    drawn = sample_blocks(space, c, random.Random(data.draw(st.integers(0, 2**32))))
    assert list(drawn) == list(space)
    assert sum(map(len, drawn.values())) == c
    for block, branches in drawn.items():
        assert branches and set(branches) <= set(space[block])
        assert list(branches) == [name for name in SEVEN if name in branches]


def test_draws_are_reproducible():
    space = {str(i): SEVEN for i in range(22)}
    draws = [sample_blocks(space, 66, random.Random(seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    'c, error, words',
    [
        (1, ValueError, 'num_branches=1 is less than the 2 ODBB blocks'),
        (0, ValueError, 'num_branches=0 is less than the 2 ODBB blocks'),
        (-3, ValueError, 'num_branches=-3 is less than the 2 ODBB blocks'),
        (14, ValueError, 'num_branches=14 is more than the 13 candidate branches'),
        (3.0, TypeError, 'must be an integer, got 3.0'),
        ('3', TypeError, "must be an integer, got '3'"),
        (True, TypeError, 'must be an integer, got True'),
    ],
)
@pytest.mark.parametrize('use', [check_num_branches, lambda c, s: sample_blocks(s, c, random.Random(0))])
def test_an_impossible_number_of_branches_is_refused(use, c, error, words):
    with pytest.raises(error, match=words) as e:
        use(c, {'a': SEVEN, 'b': SEVEN[:-1]})
    if error is ValueError:
        assert 'from 2 to 13' in str(e.value)


def test_every_possible_number_of_branches_is_accepted():
    for c in range(2, 14):
        check_num_branches(c, {'a': SEVEN, 'b': SEVEN[:-1]})


def test_blocks_are_found_in_the_models_own_order_in_every_form():
    backbone = ODBBBackbone(dict(num_blocks=[2, 1], width_factor=[0.125, 0.125]))
    names = ['stem', 'stage_1.0', 'stage_1.1', 'stage_2.0']
    assert list(find_blocks(backbone)) == names
    backbone.stage_1[0].switch_to_subnet(['kxk'])
    backbone.stage_1[1].switch_to_deploy()
    assert list(find_blocks(backbone)) == names
