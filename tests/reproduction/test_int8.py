"""The item `int8`: where outliers among weights come from, and a row a network."""

import pytest
import torch
from mmengine.config import Config
from mmpretrain import get_model

from repnas_mm.engine.checkpoint import save_fused, save_model
from repnas_mm.engine.fusing import fuse_model
from repnas_mm.search import find_blocks
from reproduction import SCALES
from reproduction.items import int8, int8_vgg16

from pretended import CONFIGS, check_options  # isort: skip


@pytest.fixture
def network():
    """Config and network with RepVGG's blocks, 40 layers, the skips large in them."""
    cfg = Config.fromfile(CONFIGS / 'repvgg_deep_digits.py')
    model = get_model(cfg).eval()
    for block in find_blocks(model).values():
        if 'skip' in block.branches:
            torch.nn.init.constant_(block.branches['skip'].norm.weight, 100.0)
    return cfg, model


def test_the_branch_that_gives_most_of_the_largest_weight(network):
    found = int8.largest_from(network[1])
    assert found['skip'] == 37 and found.total() == 40  # three layers have none


def test_coarse_weights_are_multiples_of_one_step_a_layer(network):
    fuse_model(network[1])
    for before, after in zip(network[1].modules(), int8.with_coarse_weights(network[1]).modules()):
        if isinstance(before, (torch.nn.Conv2d, torch.nn.Linear)):
            step = before.weight.abs().max() / 31
            steps = after.weight / step
            assert torch.allclose(steps, steps.round(), atol=1e-3) and steps.abs().max() < 31.01
            assert (before.weight - after.weight).abs().max() <= step * 0.501


def test_a_row_a_network(network, fake_lab, monkeypatch):
    lab = fake_lab(lambda name: 90.0)
    monkeypatch.setattr(int8, 'HAND_MADE', ('repvgg',))
    monkeypatch.setattr(int8, 'top1_of_files', lambda *_: dict.fromkeys(int8.FILES, 80.0))
    searched = Config.fromfile(CONFIGS / 'odbb_deep_digits.py')
    monkeypatch.setattr(int8, 'equalize', lambda *_: None)
    for name, cfg, model in (('repvgg', *network), ('odbb', searched, get_model(searched).eval())):
        folder = lab.folder / f'{name}_deep_digits-seed0'
        folder.mkdir()
        save_model(model.state_dict(), folder / 'epoch_1.pth', cfg)
        (folder / 'last_checkpoint').write_text('/gone/epoch_1.pth')
        fuse_model(model)
        save_fused(model, folder / 'fused.pth', cfg, [])
    report = int8.make(lab, SCALES['digits'], [0])
    assert [row['block'] for row in report.rows] == ['odbb', 'repvgg']
    row = report.rows[1]
    assert row['float: top-1 (%)'].values == (80.0,) and 0 <= row[f'{int8.COARSE[0]}: top-1 (%)'].mean <= 100
    assert row['largest weight from'].startswith('skip 37') and row['largest weight ÷ rms'] > 3
    assert set(report.figures) == {''}
    for training in lab.asked:
        check_options(training)


@pytest.mark.parametrize('scale', ['digits', 'fashion'])
def test_vgg16_has_the_trainings_of_table_3(scale, monkeypatch):
    monkeypatch.setattr(int8_vgg16, 'quantized', lambda _, trainings, *names: trainings)
    trainings = int8_vgg16.make(None, SCALES[scale], [0, 1])
    assert [t.name for t in trainings['odbb']] == [f'vgg16_odbb_{scale}-c39-seed{seed}' for seed in (0, 1)]
    assert [*trainings] == ['plain', 'acb', 'dbb', 'repvgg', 'odbb']
    for group in trainings.values():
        for training in group:
            check_options(training)
