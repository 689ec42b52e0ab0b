"""Every measure on networks so small that it takes seconds, and what is counted against numbers counted by hand."""

import itertools
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from benchmarking import (
    MEASURES,
    compiled_latency,
    compiled_step,
    fast_paths,
    fused_latency,
    growth,
    hook_time,
    step_time,
)
from benchmarking.bytes_saved import backbone_bytes
from benchmarking.compared import TrainingStep, repvgg_branches, searched, stock, subnet
from benchmarking.draws import draws, searches
from benchmarking.naive import naive, naive_blocks
from benchmarking.settings import NAMED, Setting, digits
from benchmarking.targets import AT_A0, EVERYWHERE, line
from repnas_mm.models import ODBBBackbone
from repnas_mm.search import find_blocks

TINY = Setting('A0', image_size=32, batch_size=2, base_channels=8)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    for module in (step_time, fused_latency, compiled_latency, compiled_step, growth, fast_paths):
        monkeypatch.setattr(module, 'ROUNDS', 1)
    monkeypatch.setitem(compiled_step.OPTIONS, 'cpu', dict(backend='eager'))  # inductor takes a minute


def test_c_is_the_number_of_branches_that_repvgg_a0_has():
    names = ('branch_3x3', 'branch_1x1', 'branch_norm')
    there = [getattr(module, name, None) is not None for module in stock(TINY).modules() for name in names]
    assert sum(there) == repvgg_branches(searched(TINY)) == 61


def test_draws_set_the_same_gates_in_both_networks():
    backbone = searched(TINY)
    rival, seen = naive(backbone), []
    both = searches(backbone, rival, 61)
    for gates in draws(*both, 'A0', 2, 1):
        blocks, slow = find_blocks(backbone), naive_blocks(rival)
        assert all(block.active.tolist() == slow[name].active for name, block in blocks.items())
        seen.append((gates, {name: block.active_branches for name, block in blocks.items()}))
    assert [gates for gates, _ in seen] == ['random', 'random', 'converged']
    assert sum(map(len, seen[0][1].values())) == 61 and seen[0] != seen[1]
    authors = seen[2][1]
    assert authors['stage_1.0'] == ('kxk', '1x1_kxk') and authors['stage_2.1'] == ('1x1_kxk', 'skip')
    assert [*draws(*both, 'B1', 1, 1)] == ['random']  # the authors published none


def test_a_step_trains_weights_and_alpha():
    backbone = searched(TINY)
    both = searches(backbone, naive(backbone), 61)
    training = TrainingStep(backbone, TINY, both[0])
    before = [p.clone() for p in training.model.parameters()]
    list(itertools.islice(draws(*both, 'A0', 1, 0), 1))
    training.run()
    changed = [not torch.equal(a, b) for a, b in zip(before, training.model.parameters())]
    names = [name for name, _ in training.model.named_parameters()]
    assert any(c for c, name in zip(changed, names) if name.endswith('alpha'))
    assert any(c for c, name in zip(changed, names) if name.endswith('weight'))


def test_a_subnet_trains_whatever_its_last_branch_is():
    backbone = searched(TINY)
    block = backbone.stage_4[0]
    for j in range(len(block.candidates)):
        block.set_active([i == j for i in range(len(block.candidates))])
        TrainingStep(subnet(backbone), TINY).run()


def test_a_subnet_has_the_active_branches_only():
    backbone = searched(TINY)
    next(draws(*searches(backbone, naive(backbone), 61), 'A0', 1, 0))
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
    rows = [row for name, measure in MEASURES.items() if 'compiled' not in name for row in measure(TINY, 1)]
    assert all(row['setting'] == 'A0, 2 × 32²' and row['ratio'] > 0 and row['times'] == 1 for row in rows)
    named = {(row['what'], row['gates']) for row in rows} | {('R² of MiB saved for backward over branches', 'random')}
    assert {*AT_A0, *EVERYWHERE} <= named
    assert ('step time ÷ stock RepVGG', 'converged') in named


def test_what_compiling_gains_is_measured_for_a_step_and_for_the_fused_network():
    layout = dict(num_blocks=[1], width_factor=[1], strides=[1])  # compiling takes its time for each block
    setting = replace(TINY, arch='two blocks', layout=layout)
    rows = compiled_step.measure(setting, 1) + compiled_latency.measure(setting, 1)
    assert [row['gates'] for row in rows] == ['all that train', 'random', 'fused', 'fused']
    assert all(row['ratio'] > 0 for row in rows)


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
    assert all(row['ratio'] == pytest.approx(1) for row in growth.straightness(points, TINY))  # two points a line


def test_some_targets_are_for_every_setting_and_others_for_a0():
    b1 = Setting('B1')
    for what, at_a0, at_b1 in (
        ('step time ÷ naive', 1.0, 1.0),
        ('step time per multiply-add ÷ stock RepVGG', 1.15, None),
    ):
        assert line(what, TINY, 'random', [0.5, 0.7])['must reach'] == at_a0
        assert line(what, b1, 'random', [0.5, 0.7])['must reach'] == at_b1
    assert line(what, b1, 'random', [0.5, 0.7])['ratio'] == pytest.approx(0.6)


def test_the_digits_setting_is_the_demos_network_with_repvggs_branches():
    setting = digits()
    assert (setting.batch_size, setting.image_size, setting.in_channels, setting.out_channels) == (64, 16, 1, 64)
    backbone, images = searched(setting), setting.images()
    assert repvgg_branches(backbone) == 24
    assert backbone(images)[-1].shape == stock(setting)(images)[-1].shape == (64, 64, 2, 2)
    named = [(setting().arch, setting().image_size, setting().batch_size) for setting, _ in NAMED.values()]
    assert named == [('A0', 160, 8), ('A0', 224, 32), ('digits', 16, 64)]


def test_a_fast_path_is_measured_on_against_off_with_the_same_branches():
    off, seen = [], []

    @contextmanager
    def without(*names):
        off.append(names)
        yield
        off.pop()

    forward = ODBBBackbone.forward

    def spied(self, x):
        seen.append((off[-1], tuple(block.active_branches for block in find_blocks(self).values())))
        return forward(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ODBBBackbone, 'forward', spied)
        rows = fast_paths.measure(TINY, 2, ['one', 'other'], without)
    assert [(row['setting'], row['fast path'], row['draws']) for row in rows] == [
        (str(TINY), 'one', 2), (str(TINY), 'other', 2)
    ]  # fmt: skip
    assert all(row[fast_paths.TIME] > 0 and row[fast_paths.BYTES] == 1 and row['± bytes'] == 0 for row in rows)
    # per draw: each variant to warm up, once timed, once counted; and all variants have the same branches
    assert [names for names, _ in seen] == 2 * 3 * [(), ('one',), ('other',)]
    assert [len(set(branches for _, branches in seen[i : i + 9])) for i in (0, 9)] == [1, 1]


def test_the_hook_is_timed_in_steps_that_draw():
    timed = hook_time._Timed(61)
    assert timed.own == timed.step == []
    (row,) = hook_time.measure(TINY, 3)
    assert row['times'] == 3 and 0 < row['ratio'] < 10


def test_mixed_precision_and_channels_last_are_measured_as_such():
    setting = replace(TINY, amp='bfloat16', channels_last=True)
    assert setting.images().is_contiguous(memory_format=torch.channels_last)
    half, full = (replace(s, image_size=160) for s in (setting, TINY))
    assert backbone_bytes(stock(half), half) < 0.9 * backbone_bytes(stock(full), full)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='mmengine trains in mixed precision on GPUs only')
def test_a_step_in_mixed_precision():
    setting, seen = replace(TINY, amp='bfloat16', device='cuda'), set()
    training = TrainingStep(searched(setting), setting)
    training.model.backbone.register_forward_hook(lambda *args: seen.add(args[2][0].dtype))
    training.run()
    assert seen == {torch.bfloat16}
