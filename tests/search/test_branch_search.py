"""One iteration of Algorithm 1: draw, keep, apply; and the state that lets a resumed search draw the same."""

import math
import re
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from repnas_mm.models import ODBBlock
from repnas_mm.search import BranchSearch, find_blocks
from repnas_mm.search.memory import block_bytes

SIZES = {'0': 7, '1': 6, '2': 7}
INPUTS = {name: [((2, c, 8, 8), torch.float32)] for name, c in zip(SIZES, (4, 4, 8))}


def network(seed: int = 0) -> nn.Sequential:
    """4 -> 4 -> 8 -> 8 channels: 7, 6 and 7 candidates; alphas far enough from each other to rank."""
    torch.manual_seed(seed)
    net = nn.Sequential(ODBBlock(4, 4), ODBBlock(4, 8), ODBBlock(8, 8))
    for block in net:
        nn.init.normal_(block.alpha)
    return net


def search_of(net: nn.Module, **kwargs) -> BranchSearch:
    return BranchSearch(find_blocks(net), **{'num_branches': 8, **kwargs})


def memory_search(net: nn.Module, memory: int | str, **kwargs) -> BranchSearch:
    search = search_of(net, num_branches=None, memory=memory, **kwargs)
    search.set_input_shapes(INPUTS)
    return search


def keep_reference(net: nn.Module, noise: list[float], c: int) -> list[bool]:
    """Each block's own best, then the best of all, by alpha + zeta."""
    scores, left = [], iter(noise)
    for number, block in enumerate(net):
        scores += [(a + next(left), number, j) for j, a in enumerate(block.alpha.tolist())]
    best = [max(s for s in scores if s[1] == number) for number in range(len(net))]
    others = sorted((s for s in scores if s not in best), reverse=True)
    kept = {s[1:] for s in best + others[: c - len(best)]}
    return [s[1:] in kept for s in scores]


# --------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize('arguments', [{}, dict(num_branches=8, memory='6GiB')])
def test_exactly_one_constraint_is_needed(arguments):
    with pytest.raises(ValueError, match='exactly one of num_branches and memory'):
        BranchSearch(find_blocks(network()), **arguments)


@pytest.mark.parametrize('temperature', [0, -1.0, float('nan'), '1', None])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match=f'temperature must be a positive number, got {temperature!r}'):
        search_of(network(), temperature=temperature)


@pytest.mark.parametrize('c', [2, 0, -1, 21])
def test_a_number_of_branches_that_does_not_fit_the_network_is_refused(c):
    with pytest.raises(ValueError, match=f'num_branches={c} is .* from 3 to 20'):
        search_of(network(), num_branches=c)


@pytest.mark.parametrize('memory, expected', [('6GiB', 6 * 1024**3), ('500MB', 500_000_000), (12345, 12345)])
def test_memory_is_a_number_of_bytes_or_text(memory, expected):
    assert search_of(network(), num_branches=None, memory=memory).memory == expected


@pytest.mark.parametrize('memory', ['abc', '0', -1, 0, True, '6 apples'])
def test_memory_that_is_no_size_is_refused(memory):
    with pytest.raises(ValueError, match=re.escape(f'memory={memory!r} is not a size')):
        search_of(network(), num_branches=None, memory=memory)


# --------------------------------------------------------------------------------------------- iterations


@pytest.mark.parametrize('c', [3, 8, 14, 20])
def test_a_sample_keeps_exactly_c_chosen_by_alpha_and_noise(c):
    net = network()
    search = search_of(net, num_branches=c)
    for _ in range(20):
        mask, noise = search.sample()
        assert mask.sum() == c
        assert mask.tolist() == keep_reference(net, noise.tolist(), c)


def test_the_noise_is_logistic_and_new_every_time():
    search = search_of(network())
    noise = torch.stack([search.sample()[1] for _ in range(2000)]).double()
    assert noise.unique().numel() > 0.99 * noise.numel()
    assert noise.mean().abs() < 0.05
    assert noise.var().item() == pytest.approx(math.pi**2 / 3, rel=0.05)


def test_the_temperature_does_not_change_who_is_kept():
    cold, hot = (search_of(network(), temperature=t) for t in (0.01, 100.0))
    for _ in range(5):
        assert np.array_equal(cold.sample()[0], hot.sample()[0])


def test_alphas_too_large_for_a_sigmoid_are_still_ranked():
    net = network()
    for i, block in enumerate(net):
        block.alpha.data = 1000.0 + 100 * i + 10 * torch.arange(len(block.alpha), dtype=torch.float32)
    assert search_of(net).best().tolist() == keep_reference(net, [0.0] * 20, 8)


def test_the_best_is_free_of_noise_and_does_not_consume_any():
    net = network()
    search, other = search_of(net), search_of(net, seed=9)
    assert search.best().tolist() == other.best().tolist() == keep_reference(net, [0.0] * 20, 8)
    untouched = search_of(net)
    assert torch.equal(search.sample()[1], untouched.sample()[1])


def test_a_far_better_branch_is_kept_against_the_noise():
    net = network()
    with torch.no_grad():
        net[1].alpha[2] += 100
        net[2].alpha[5] -= 100
    masks = np.array([search.sample()[0] for search in [search_of(net)] for _ in range(200)])
    assert masks[:, 7 + 2].all()
    assert not masks[:, 13 + 5].any()


def test_the_same_seed_draws_the_same():
    draws = [[search.sample() for _ in range(5)] for search in (search_of(network(), seed=s) for s in (1, 1, 2))]
    for (mask, noise), (mask2, noise2) in zip(*draws[:2]):
        assert np.array_equal(mask, mask2) and torch.equal(noise, noise2)
    assert not torch.equal(draws[0][0][1], draws[2][0][1])


def test_drawing_leaves_the_global_random_state_alone():
    search = search_of(network())
    before = torch.get_rng_state()
    search.sample()
    assert torch.equal(before, torch.get_rng_state())


def test_apply_makes_the_blocks_compute_the_kept_branches():
    net = network()
    search = search_of(net)
    mask, noise = search.sample()
    search.apply(mask, noise)
    left = iter(mask.tolist())
    for block in net:
        kept = [next(left) for _ in block.candidates]
        assert block.active_branches == tuple(name for name, k in zip(block.candidates, kept) if k)
        assert block.active.tolist() == kept
    assert {name: m.tolist() for name, m in search.masks_by_block(mask).items()} == {
        name: block.active.tolist() for name, block in zip(SIZES, net)
    }


def test_dropped_branches_are_not_computed_and_their_alphas_get_no_gradient():
    net = network()
    search = search_of(net)
    mask, noise = search.sample()
    search.apply(mask, noise)
    computed = []
    for name, block in zip(SIZES, net):
        for branch, module in block.branches.items():
            module.register_forward_hook(lambda *_, at=(name, branch): computed.append(at))
    (net(torch.randn(4, 4, 8, 8)) * torch.randn(4, 8, 8, 8)).sum().backward()
    assert computed == [(name, branch) for name, block in zip(SIZES, net) for branch in block.active_branches]
    assert search.read_gradients()
    gradient = torch.cat([alpha.grad for alpha in search.alphas])
    assert (gradient != 0).tolist() == mask.tolist()


def test_without_noise_alpha_gets_no_gradient():
    net = network()
    search = search_of(net)
    search.apply(search.best())
    net(torch.randn(2, 4, 8, 8)).sum().backward()
    assert not search.read_gradients()
    assert all(alpha.grad is None for alpha in search.alphas)


def test_the_gradient_of_alpha_is_equation_12_with_the_searchs_temperature():
    """dL/dalpha = dL/dz * Z(1 - Z)/lambda, with dL/dz = <dL/dx, O> of a single block without activation."""
    torch.manual_seed(0)
    block = ODBBlock(4, 4, act_cfg=None).double()
    search = BranchSearch({'b': block}, num_branches=3, temperature=2.5)
    mask, noise = search.sample()
    search.apply(mask, noise)
    x, upstream = torch.randn(2, 4, 8, 8).double(), torch.randn(2, 4, 8, 8).double()
    before = deepcopy(block)  # the border padding follows the running statistics, which a forward moves
    block(x).backward(upstream)
    search.read_gradients(factor=0.5)
    for j, name in enumerate(block.candidates):
        if not mask[j]:
            assert block.alpha.grad[j] == 0
            continue
        alone = deepcopy(before)
        alone.set_active([name == other for other in block.candidates])
        z = 1 / (1 + math.exp(-(block.alpha[j].item() + noise[j].item()) / 2.5))
        expected = (alone(x) * upstream).sum().item() * z * (1 - z) / 2.5
        assert block.alpha.grad[j].item() == pytest.approx(0.5 * expected, rel=1e-5)


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('at', [('0', 0, '1x1'), ('1', 3, '1x1_avg'), ('2', 6, 'skip')])
def test_an_alpha_that_is_not_finite_is_named(bad, at):
    net, (name, j, branch) = network(), at
    net[int(name)].alpha.data[j] = bad
    search = search_of(net)
    for use in (search.sample, search.best):
        with pytest.raises(FloatingPointError, match=f"alpha of branch '{branch}' in block '{name}' is {bad}"):
            use()


def test_the_gap_is_the_mean_alpha_of_the_kept_minus_that_of_the_dropped():
    net = network()
    search = search_of(net)
    alpha = [a for block in net for a in block.alpha.tolist()]
    mask = search.best()
    kept, dropped = ([a for a, m in zip(alpha, mask) if m == side] for side in (True, False))
    assert search.alpha_gap(mask) == pytest.approx(sum(kept) / len(kept) - sum(dropped) / len(dropped))
    assert search.alpha_gap(np.ones(20, dtype=bool)) == 0


# -------------------------------------------------------------------------------------------------- state


def test_a_resumed_search_continues_the_noise_exactly():
    search = search_of(network(), seed=4)
    for _ in range(3):
        search.sample()
    state = deepcopy(search.state_dict())
    expected = [search.sample()[1] for _ in range(3)]
    resumed = search_of(network(), seed=0)
    resumed.load_state_dict(state)
    assert all(torch.equal(resumed.sample()[1], noise) for noise in expected)


def test_the_state_survives_a_checkpoint_file(tmp_path):
    search = memory_search(network(), 10**6, seed=4)
    torch.save(search.state_dict(), tmp_path / 'state.pth')
    resumed = search_of(network(), num_branches=None, memory=10**6)
    assert resumed.needs_input_shapes()
    resumed.load_state_dict(torch.load(tmp_path / 'state.pth', weights_only=True))
    assert not resumed.needs_input_shapes()
    assert resumed.block_memory.inputs == search.block_memory.inputs
    (mask, noise), (mask2, noise2) = search.sample(), resumed.sample()
    assert np.array_equal(mask, mask2) and torch.equal(noise, noise2)


@pytest.mark.parametrize(
    'other',
    [
        nn.Sequential(ODBBlock(4, 4), ODBBlock(4, 8)),
        nn.Sequential(ODBBlock(4, 4), ODBBlock(4, 8), ODBBlock(8, 8, stride=2)),
        nn.ModuleDict(dict(a=ODBBlock(4, 4), b=ODBBlock(4, 8), c=ODBBlock(8, 8))),
    ],
    ids=['a block less', 'a branch less', 'other names'],
)
def test_the_state_of_another_network_is_refused(other):
    state = search_of(other).state_dict()
    search, untouched = search_of(network(), seed=1), search_of(network(), seed=1)
    with pytest.raises(ValueError, match='search over other blocks'):
        search.load_state_dict(state)
    assert torch.equal(search.sample()[1], untouched.sample()[1])


# ------------------------------------------------------------------------------------------ memory budget


def bytes_of(net: nn.Module, mask: np.ndarray) -> int:
    """What the kept branches of all blocks save for backward, each block measured afresh."""
    total, start = 0, 0
    for block, [inputs] in zip(net, INPUTS.values()):
        own = mask[start : start + len(block.candidates)]
        total += block_bytes(block, *inputs, tuple(np.flatnonzero(own).tolist()))
        start += len(block.candidates)
    return total


def test_the_memory_constraint_needs_to_see_the_inputs_first():
    assert not search_of(network()).needs_input_shapes()
    search = search_of(network(), num_branches=None, memory='1MB')
    assert search.needs_input_shapes()
    search.set_input_shapes(INPUTS)
    assert not search.needs_input_shapes()


def costliest_branches(net: nn.Module) -> int:
    """What the network saves with one branch a block, the costliest one."""
    return sum(
        max(block_bytes(block, *inputs, (j,)) for j in range(len(block.candidates)))
        for block, [inputs] in zip(net, INPUTS.values())
    )


@pytest.mark.parametrize('part', [0.25, 0.5, 0.75])
def test_a_sample_stays_within_the_memory_budget_and_the_next_branch_would_not(part):
    net = network()
    low, high = costliest_branches(net), bytes_of(net, np.ones(20, dtype=bool))
    search = memory_search(net, int(low + part * (high - low)))
    for _ in range(5):
        mask, noise = search.sample()
        # what is kept is a prefix of the ranking: what a search for that number of branches keeps
        c = int(mask.sum())
        assert 3 < c < 20
        assert mask.tolist() == keep_reference(net, noise.tolist(), c)
        assert bytes_of(net, mask) <= search.memory
        assert bytes_of(net, np.array(keep_reference(net, noise.tolist(), c + 1))) > search.memory


def test_a_budget_for_everything_keeps_everything():
    net = network()
    everything = np.ones(20, dtype=bool)
    assert memory_search(net, bytes_of(net, everything)).best().all()
    assert memory_search(net, bytes_of(net, everything) - 1).best().sum() < 20


def test_a_budget_is_refused_at_once_if_some_choice_of_one_branch_a_block_exceeds_it():
    net = network()
    needed = costliest_branches(net)
    with pytest.raises(ValueError, match=f'memory={needed - 1} bytes is less than the {needed} bytes'):
        memory_search(net, needed - 1)
    search = memory_search(net, needed)
    for _ in range(30):
        search.sample()


def test_a_search_with_another_constraint_takes_the_noise_over():
    state = memory_search(network(), '1MB', seed=4).state_dict()
    search = search_of(network())
    search.load_state_dict(state)
    assert torch.equal(search.sample()[1], search_of(network(), seed=4).sample()[1])


def test_measuring_leaves_the_network_alone():
    net = network()
    before = deepcopy(net.state_dict())
    memory_search(net, '1MB').best()
    after = net.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(block.active_branches == block.candidates for block in net)


def test_the_constraint_remembers_the_largest_inputs_and_a_genotype_recomputes():
    blocks = dict(a=ODBBlock(8, 8), b=ODBBlock(8, 8))
    small, large = [((4, 8, 16, 16), torch.float32)], [((4, 8, 32, 32), torch.float32)]
    search = BranchSearch(blocks, memory=10**9)
    search.set_input_shapes(dict(a=small, b=large))
    search.set_input_shapes(dict(a=large, b=small))
    assert search.block_memory.inputs == [large, large]
    assert search.is_larger(dict(a=[], b=5 * small)) and not search.is_larger(dict(b=4 * small))
    everything = np.ones(14, dtype=bool)
    needed = search.genotype_bytes(everything)
    search.memory = needed - 1
    search.set_input_shapes(dict(a=small, b=small), everything)
    assert all(block.with_cp for block in blocks.values()) and search.genotype_bytes(everything) < needed
    search.memory = needed
    search.set_input_shapes(dict(a=small, b=small), everything)
    assert not any(block.with_cp for block in blocks.values())
