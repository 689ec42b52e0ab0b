"""ShrinkSearch: all candidates, a cut that leaves every block its trunk, and recomputation where memory is short."""

import numpy as np
import pytest
import torch

from repnas_mm.models import ODBBlock
from repnas_mm.search.shrink import ShrinkSearch
from repnas_mm.search.space import BRANCHES


def make_search(num_branches=None, memory=None, block=ODBBlock, kinds=tuple(BRANCHES)):
    torch.manual_seed(0)
    blocks = {name: block(4, 4, share_weights=False) for name in ('a', 'b', 'c')}
    search = ShrinkSearch(blocks, num_branches, memory, 'kxk', kinds)
    if memory is not None:
        search.set_input_shapes({name: [((2, 4, 8, 8), torch.float32)] for name in blocks})
    return search


def set_alpha(search, values):
    for alpha, row in zip(search.alphas, np.reshape(values, (3, 7))):
        alpha.data.copy_(torch.tensor(row))


def kept(search, mask):
    kinds = np.array(search.kinds).reshape(3, 7)
    return [set(names[row]) for names, row in zip(kinds, mask.reshape(3, 7))]


def test_nothing_is_drawn():
    search = make_search(5)
    mask, noise = search.sample()
    assert mask.all() and not noise.any() and search.best().all()


def test_the_cut_leaves_kxk_and_then_goes_by_rank():
    search = make_search(6)
    alpha = np.random.default_rng(0).normal(size=(3, 7))
    alpha[:, 1] = -100  # kxk
    set_alpha(search, alpha)
    mask = search.cut(np.full(21, 1e-8), 16)  # α is known exactly
    assert mask.sum() == 6 and mask.reshape(3, 7)[:, 1].all()
    alpha[:, 1] = np.inf
    assert np.array_equal(mask, np.isin(np.arange(21), np.argsort(-alpha.ravel())[:6]))


def test_what_the_search_does_not_start_with_is_never_computed():
    search = make_search(6, kinds=('kxk', 'skip', '1xk'))
    assert kept(search, search.best()) == [{'kxk', 'skip', '1xk'}] * 3
    set_alpha(search, np.where(np.isin(search.kinds, ('kxk', 'skip', '1xk')), -1.0, 1.0))
    assert all(names <= {'kxk', 'skip', '1xk'} for names in kept(search, search.cut(np.ones(21), 16)))


def test_more_branches_than_the_search_starts_with_are_refused():
    with pytest.raises(ValueError, match='num_branches=10 is more than the 9 branches that the search starts with'):
        make_search(10, kinds=('kxk', 'skip', '1xk'))


def test_where_alpha_is_noise_the_cut_goes_by_kind():
    search = make_search(6)
    alpha = np.random.default_rng(0).normal(size=(3, 7))
    alpha[:, 6] += 1.5  # skip
    set_alpha(search, alpha)
    mask = search.cut(np.full(21, 4.0), 16)
    assert kept(search, mask) == [{'kxk', 'skip'}] * 3


def test_the_cut_counts_what_it_keeps_although_alpha_is_negative():
    search = make_search(8)
    alpha = np.linspace(-2, -1, 21).reshape(3, 7)
    alpha[:, 6] = 1.0  # skip
    set_alpha(search, alpha)
    mask = search.cut(np.full(21, 1e-8), 16)
    assert mask.sum() == 8 and search.unwanted == 2  # beside the three kxk and the three skip
    assert make_search(6).unwanted == 0


@pytest.mark.parametrize(('part', 'recompute'), [(1.0, False), (0.9, True)])
def test_blocks_recompute_as_long_as_all_are_active_and_do_not_fit(part, recompute):
    needed = make_search(memory='1GiB').genotype_bytes(np.ones(21, dtype=bool))
    search = make_search(memory=int(part * needed))
    everything = search.best()
    search.apply(everything)
    assert {block.with_cp for block in search.blocks.values()} == {recompute}
    mask = search.cut(np.ones(21), 16)
    search.apply(mask)
    assert not any(block.with_cp for block in search.blocks.values())
    assert mask.all() != recompute
    masks = (tuple(np.flatnonzero(row)) for row in mask.reshape(3, 7))
    assert sum(search.block_memory(i, row) for i, row in enumerate(masks)) <= search.memory


def test_blocks_that_cannot_recompute_are_refused():
    class Never(ODBBlock):
        with_cp = property(lambda self: False, lambda self, value: None)

    with pytest.raises(ValueError, match=r'bytes that all branches need at this batch size where blocks recompute'):
        make_search(memory=int(0.9 * make_search(memory='1GiB').genotype_bytes(np.ones(21, dtype=bool))), block=Never)
