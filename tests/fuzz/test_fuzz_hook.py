"""Whatever the arguments of RepNASHook: the run starts a search that keeps its constraint, or names the argument."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.runner import Runner
from outcome import Refused, attempt, fuzz

from repnas_mm.engine import RepNASHook
from repnas_mm.search import find_blocks
from repnas_mm.search.branch_search import BranchSearch

JUNK = st.sampled_from(
    [None, -1, 0, 1.5, float('nan'), float('inf'), 10**400, -(10**400), 1e-300, '', '3', 'two\nlines. Of text', b'6GiB']
    + [(), [3], {}, {'type': 3}, object(), torch.zeros(2), torch.tensor(5), RepNASHook]
)
SIZES = st.sampled_from(
    ['6GiB', '500 MB', '1.5GiB', 10**9, '6gib', '6 GiB ', '-1GiB', '1e3MB', 'GiB', '0B', '١GiB', '9' * 400]
)
OPTIMIZERS = st.fixed_dictionaries(
    {},
    optional=dict(
        type=st.sampled_from(
            ['Adam', 'Adam', 'SGD', 'AdamW', 'LBFGS', 'SparseAdam', 'NoSuch', 'OptimWrapper', None, 3]
        ),
        lr=st.sampled_from([1e-4, 0.1, 0, -1.0, float('nan'), float('inf'), 1e300, '1e-4', None]),
        betas=st.sampled_from([(0.5, 0.999), (0.5,), (0.5, 2.0), 'ab', None, 0.5, (float('nan'), 0.9)]),
        weight_decay=st.sampled_from([0, 5e-4, -1, float('nan'), float('inf'), '0']),
        eps=st.sampled_from([1e-8, 0, -1, float('nan')]),
        params=st.just([]),
        momentum=st.sampled_from([0.9, -1, 'x']),
        unknown=st.just(1),
    ),
)
GOOD_OPTIMIZER = st.sampled_from([dict(type='Adam', lr=0.01, betas=(0.5, 0.999)), dict(type='SGD', lr=0.1)])


@st.composite
def arguments(draw):
    """Arguments of a sound hook, up to two of which are spoiled."""
    strategies = dict(
        num_branches=(st.integers(4, 25), st.integers(-1, 30)),
        memory=(st.just('6GiB'), SIZES),
        warmup=(st.integers(0, 2), st.integers(-2, 9)),
        frozen=(st.integers(0, 2), st.integers(-2, 9)),
        temperature=(st.sampled_from([1, 0.5, 10.0]), st.sampled_from([True, '1', 1e-9, 1e9])),
        alpha_optimizer=(GOOD_OPTIMIZER, OPTIMIZERS),
        recalibrate_val=(st.sampled_from([0, 1, 1024]), st.integers(-2, 9)),
    )
    optional = ['warmup', 'frozen', 'temperature', 'alpha_optimizer', 'recalibrate_val']
    names = draw(st.sets(st.sampled_from(optional)))
    names.add(draw(st.sampled_from(['num_branches', 'num_branches', 'memory'])))
    spoiled = draw(st.lists(st.sampled_from([*strategies]), max_size=2, unique=True))
    given = {name: draw(strategies[name][0]) for name in sorted(names)}
    return given | {name: draw(strategies[name][1] | JUNK) for name in spoiled}


@pytest.fixture
def runner(small_cfg):
    """One whose parts are built as at the start of a training."""
    small_cfg.custom_hooks = []
    runner = Runner.from_cfg(small_cfg)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    return runner


def start(runner, given) -> RepNASHook:
    hook = RepNASHook(strategy='sample', **given)
    hook.before_run(runner)
    return hook


@given(given=arguments())
@fuzz(300)
def test_a_run_starts_its_search_or_names_the_argument(runner, given):
    hook = attempt(start, runner, given, names=[*given])
    if isinstance(hook, Refused):
        return
    search = hook.search
    before = [alpha.detach().clone() for alpha in search.alphas]
    if search.num_branches is not None:
        mask, noise = search.sample()
        assert mask.sum() == given['num_branches'] == search.best().sum()
        search.apply(mask, noise)
        assert all(block.active.any() for block in search.blocks.values())
    for alpha in search.alphas:
        alpha.grad = torch.ones_like(alpha)
    hook.alpha_optimizer.optimizer.step()
    assert all(alpha.isfinite().all() for alpha in search.alphas)
    for alpha, old in zip(search.alphas, before):
        alpha.data, alpha.grad = old, None
    assert [hook.phase(runner)] == (['warmup'] if given.get('warmup') else ['search'])


@given(memory=SIZES | st.integers(1, 10**6) | JUNK)
@fuzz(10)
def test_a_search_keeps_within_its_memory_or_names_it(runner, memory):
    blocks = find_blocks(runner.model)
    search = attempt(BranchSearch, blocks, memory=memory, names=['memory'])
    if isinstance(search, Refused):
        return
    inputs = {name: [((2, block.in_channels, 8, 8), torch.float32)] for name, block in blocks.items()}
    if isinstance(attempt(search.set_input_shapes, inputs, names=[f'memory={search.memory}']), Refused):
        return
    masks = search.masks_by_block(search.sample()[0])
    kept = [tuple(mask.nonzero().flatten().tolist()) for mask in masks.values()]
    assert all(kept) and sum(search.block_memory(i, k) for i, k in enumerate(kept)) <= search.memory
