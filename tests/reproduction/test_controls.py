"""The controls: every variant does what its name says in a real training, and the item's rows are its results."""

import json
from pathlib import Path

import pytest
from mmengine.hooks import Hook

from repnas_mm.search import Genotype, find_blocks
from reproduction import SCALES
from reproduction.controls import VARIANTS
from reproduction.items import controls


@pytest.fixture
def cfg(small_cfg):
    """4 blocks of 17 branches that a search starts with; 12 iterations with all of them, 6 behind the cut."""
    small_cfg.model.backbone.share_weights = False
    small_cfg.custom_hooks[0] = dict(type='RepNASHook', num_branches=9, frozen=2)
    return small_cfg


@pytest.mark.parametrize('strategy', VARIANTS)
def test_variants_end_with_c_branches(cfg, run, strategy):
    cfg.custom_hooks[0]['strategy'] = strategy
    runner = run(cfg)
    genotype = Genotype.load(Path(runner.work_dir) / 'genotype.json')
    assert genotype.num_branches == 9
    kxk = sum('kxk' in branches for branches in genotype.values())
    assert kxk == 4 or strategy == 'kxk not pinned'
    cut = json.loads((Path(runner.work_dir) / 'cut.json').read_text())
    change = abs(cut['after'] - cut['before'])
    assert change > 0.01 if strategy in ('dropped at the cut', 'kxk not pinned') else change < 1e-4


class Count(Hook):
    """Notes the number of active branches behind every iteration."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append(sum(len(block.active_branches) for block in find_blocks(runner.model).values()))


def test_a_gradual_cut_takes_four_steps(cfg, run):
    cfg.custom_hooks[0]['strategy'] = 'gradual cut'
    count = Count()
    run(cfg, count)
    assert list(dict.fromkeys(count.seen)) == [17, 15, 13, 11, 9]


def test_the_item(fake_lab):
    lab = fake_lab(lambda name: 80 + len(name) / 10)
    scale = SCALES['digits']
    for label in controls.LABELS:
        for seed in (0, 1):
            folder = lab.folder / f'odbb_deep_digits-fine-tuning-{label}-seed{seed}' / 'log/vis_data'
            folder.mkdir(parents=True)
            (folder / 'scalars.json').write_text(
                ''.join(json.dumps(dict(step=i, loss=1 / i)) + '\n' for i in range(1, 9))
            )
            (folder.parents[1] / 'cut.json').write_text(json.dumps(dict(before=0.5, after=0.25 * (seed + 2))))
    report = controls.make(lab, scale, [0, 1])
    rows = {row['search']: row for row in report.rows}
    assert {
        *VARIANTS,
        'all seven kinds of branches',
        'cut at 10%',
        'cut at 95%, dropped',
        'fine-tuning, dropped',
    } <= set(rows)
    assert rows['fine-tuning, absorbed']['change of the loss at the cut'] == 0.125
    assert rows['cut at 10%']['change of the loss at the cut'] is None
    tuned = [t for t in lab.asked if 'fine-tuning' in t.name]
    assert [
        t.options['load_from'].endswith(f'repvgg_deep_digits-seed{s}/fused.pth') for t, s in zip(tuned, (0, 1, 0, 1))
    ]
