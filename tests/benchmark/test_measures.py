"""Every measure on networks so small that it takes seconds, and what is counted against numbers counted by hand."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from repnas_mm.benchmark import MEASURES, Setting, compiled, growth, hook, latency, step
from repnas_mm.benchmark.draws import draws
from repnas_mm.benchmark.kept import backbone_bytes
from repnas_mm.benchmark.naive import naive, naive_blocks
from repnas_mm.benchmark.networks import Training, multiply_adds, searched, stock, subnet
from repnas_mm.benchmark.table import TARGETS, line
from repnas_mm.reproduce.networks import repvgg_branches
from repnas_mm.search import find_blocks
from repnas_mm.utils.timing import take_turns

TINY = Setting('A0', image_size=32, batch_size=2, base_channels=8)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    for module in (step, latency, compiled, growth):
        monkeypatch.setattr(module, 'ROUNDS', 1)


def test_runs_take_turns_after_one_round_to_warm_up():
    calls = []
    seconds = take_turns({name: lambda name=name: calls.append(name) for name in 'ab'}, 2, 5, 0)
    assert calls == list('ab' * 3)
    assert {name: len(s) for name, s in seconds.items()} == dict(a=2, b=2)
    assert len(take_turns({'a': int}, 2, 5, 1e9)['a']) == 5


def test_multiply_adds_of_a_convolution_counted_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1, groups=2))
    assert multiply_adds(net, TINY) == 16 * 16 * (8 * 3 * 9 + 4 * 4)


def test_c_is_the_number_of_branches_that_repvgg_a0_has():
    names = ('branch_3x3', 'branch_1x1', 'branch_norm')
    there = [getattr(module, name, None) is not None for module in stock(TINY).modules() for name in names]
    assert sum(there) == repvgg_branches('A0') == 61


def test_draws_set_the_same_gates_in_both_networks():
    backbone = searched(TINY)
    rival, seen = naive(backbone), []
    for gates in draws(backbone, rival, 61, 'A0', 2, 1):
        blocks, slow = find_blocks(backbone), naive_blocks(rival)
        for name, block in blocks.items():
            assert block.active.tolist() == slow[name].active and torch.equal(block.noise, slow[name].noise)
        seen.append((gates, {name: block.active_branches for name, block in blocks.items()}))
    assert [gates for gates, _ in seen] == ['random', 'random', 'converged']
    assert sum(map(len, seen[0][1].values())) == 61 and seen[0] != seen[1]
    authors = seen[2][1]
    assert authors['stage_1.0'] == ('kxk', '1x1_kxk') and authors['stage_2.1'] == ('1x1_kxk', 'skip')
    assert [*draws(backbone, rival, 61, 'B1', 1, 1)] == ['random']  # the authors published none


def test_a_step_trains_weights_and_alpha():
    training = Training(searched(TINY), TINY)
    before = [p.clone() for p in training.model.parameters()]
    list(itertools.islice(draws(training.model.backbone, naive(training.model.backbone), 61, 'A0', 1, 0), 1))
    training.step()
    changed = [not torch.equal(a, b) for a, b in zip(before, training.model.parameters())]
    names = [name for name, _ in training.model.named_parameters()]
    assert any(c for c, name in zip(changed, names) if name.endswith('alpha'))
    assert any(c for c, name in zip(changed, names) if name.endswith('weight'))


def test_a_subnet_trains_whatever_its_last_branch_is():
    backbone = searched(TINY)
    block = backbone.stage_4[0]
    for j in range(len(block.candidates)):
        block.set_active([i == j for i in range(len(block.candidates))])
        Training(subnet(backbone), TINY).step()


def test_a_subnet_has_the_active_branches_only():
    backbone = searched(TINY)
    next(draws(backbone, naive(backbone), 61, 'A0', 1, 0))
    fixed = subnet(backbone)
    assert sum(len(block.branches) for block in find_blocks(fixed).values()) == 61
    assert sum(len(block.branches) for block in find_blocks(backbone).values()) == 149


def test_bytes_of_stock_repvgg_counted_by_hand():
    """Each branch's BN keeps its input, and ReLU its output, which is all that the next block needs."""
    setting, values = replace(TINY, image_size=160), 0
    for channels, side, blocks in ((6, 80, 1), (6, 40, 2), (12, 20, 4), (24, 10, 14), (160, 5, 1)):
        values += blocks * 3 * channels * side**2  # 3×3, 1×1 and their sum; the identity's input is there already
    counted = backbone_bytes(stock(setting), setting) / setting.batch_size
    assert counted == pytest.approx(4 * values, rel=0.02)


def test_measures_give_positive_ratios_among_them_all_that_have_a_target():
    rows = [row for measure in MEASURES.values() for row in measure(TINY, 1)]
    assert all(row['arch'] == 'A0' and row['ratio'] > 0 and row['times'] == 1 for row in rows)
    named = {(row['what'], row['gates']) for row in rows} | {('R² of MiB kept for backward over branches', 'random')}
    assert set(TARGETS) <= named
    assert ('step time ÷ stock RepVGG', 'converged') in named


def test_cost_grows_with_branches_images_and_pixels(monkeypatch):
    monkeypatch.setattr(growth, 'SHARES', (0.3, 0.9))
    monkeypatch.setattr(growth, 'BATCHES', (1, 2))
    monkeypatch.setattr(growth, 'SIDES', (1, 2))
    points = growth.measure(TINY, 1)
    assert [(row['grows with'], row['at']) for row in points] == [
        ('branches', 45), ('branches', 134), ('images', 2), ('images', 4), ('pixels', 32**2), ('pixels', 64**2)
    ]  # fmt: skip
    kept = [row[growth.BYTES].mean for row in points]
    assert kept[0] < kept[1] and kept[2] < kept[3] and kept[4] < kept[5]
    assert all(row['ratio'] == pytest.approx(1) for row in growth.straightness(points, 'A0'))  # two points a line


def test_targets_are_for_a0_only():
    what, gates = 'step time ÷ naive', 'random'
    assert line(what, 'A0', gates, [0.5, 0.7])['must reach'] == 0.85
    assert line(what, 'B1', gates, [0.5, 0.7])['must reach'] is None
    assert line(what, 'B1', gates, [0.5, 0.7])['ratio'] == pytest.approx(0.6)


def test_the_hook_is_timed_in_steps_that_draw():
    timed = hook._Timed(61)
    assert timed.own == timed.step == []
    (row,) = hook.measure(TINY, 3)
    assert row['times'] == 3 and 0 < row['ratio'] < 10


def test_mixed_precision_and_channels_last_are_measured_as_such():
    setting = replace(TINY, amp='bfloat16', channels_last=True)
    assert setting.images().is_contiguous(memory_format=torch.channels_last)
    half, full = (replace(s, image_size=160) for s in (setting, TINY))
    assert backbone_bytes(stock(half), half) < 0.9 * backbone_bytes(stock(full), full)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='mmengine trains in mixed precision on GPUs only')
def test_a_step_in_mixed_precision():
    setting, seen = replace(TINY, amp='bfloat16', device='cuda'), set()
    training = Training(searched(setting), setting)
    training.model.backbone.register_forward_hook(lambda *args: seen.add(args[2][0].dtype))
    training.step()
    assert seen == {torch.bfloat16}
