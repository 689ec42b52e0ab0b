"""Table 2 and Figure 1: stock networks beside ours, what is published and the paper's in columns of their own."""

import pytest
from mmengine.config import Config
from torch import nn

from reproduction import SCALES
from reproduction.items import figure1, table2
from reproduction.paper import TABLE2

from pretended import CONFIGS  # isort: skip


@pytest.fixture
def quick(monkeypatch):
    """Measures nothing: the n-th model takes n ms."""

    def measure(models, *args, **kwargs):
        return {name: (i + 1) / 1000 for i, name in enumerate(models)}

    for item in (table2, figure1):
        monkeypatch.setattr(item, 'latencies', measure)
    monkeypatch.setattr(table2, 'complexity', lambda model, size: (2_000_000, 3_000_000_000))
    monkeypatch.setattr(table2, 'step_seconds', lambda cfg, device: 0.5)


def test_table2(quick, fake_lab, monkeypatch):
    monkeypatch.setattr(table2, 'stock_network', lambda name: nn.Identity())
    monkeypatch.setattr(table2, 'fused_network', lambda *args: nn.Identity())
    report = table2.make(fake_lab(), SCALES['digits'], [0])
    rows = {row['model']: row for row in report.rows}
    assert list(rows) == ['ODBB-A1', 'ODBB-A2', 'ODBB-B3', *table2.STOCK]
    b3 = rows['ODBB-B3']
    assert (b3['parameters (M)'], b3['FLOPs (G)'], b3['batch 1 (s)']) == (2.0, 3.0, 0.003)
    # 1,437 digits in batches of 32, 16 epochs
    assert b3['search and training (device-days)'] == pytest.approx(45 * 16 * 0.5 / 86400)
    assert [b3[column] for column in b3 if column.startswith('paper')] == list(TABLE2['ODBB-B3'])
    assert b3['mmpretrain: top-1 (%)'] is None
    assert rows['ResNet-50']['mmpretrain: top-1 (%)'] == 76.55
    assert rows['ResNet-50']['paper: top-1 (%)'] is None


def test_a_search_on_imagenet_is_priced_on_the_devices_of_its_config(quick, fake_lab):
    days = table2.search_days(fake_lab(), SCALES['imagenet'], 'A1', 'cpu')
    assert days == pytest.approx(150 * -(-1_281_167 // 256) * 0.5 * 8 / 86400)


@pytest.mark.parametrize('name', ['MobileOne-s1', 'RepVGG-A1'])
def test_stock_networks_are_fused(name):
    names = [n for n, _ in table2.stock_network(name).named_modules()]
    assert {n.split('.')[-1] for n in names if 'branch' in n} == {'branch_reparam'}


@pytest.mark.parametrize('config', ['mobilenetv2', 'shufflenetv2', 'resnet18'])
@pytest.mark.parametrize('scale', ['digits', 'fashion'])
def test_stock_networks_of_figure1_have_the_schedule_of_the_others(config, scale):
    cfg, other = (Config.fromfile(CONFIGS / f'{name}_{scale}.py') for name in (config, 'repvgg_a0'))
    for key in ('train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg'):
        assert cfg[key] == other[key]


def test_figure1(quick, fake_lab):
    lab = fake_lab(lambda name: 90 + name.count('odbb'))
    report = figure1.make(lab, SCALES['digits'], [0, 1])
    rows = {row['model']: row for row in report.rows}
    assert set(figure1.TRAINED) < set(rows) and len(rows) == 6 + 6 + 3
    odbb, repvgg = rows['ODBB-A1'], rows['RepVGG-A1']
    assert odbb['batch 128 (s)'] == repvgg['batch 128 (s)'] == 0.002
    assert (odbb['top-1 (%)'].values, repvgg['top-1 (%)'].values) == ((91, 91), (90, 90))
    assert (odbb['paper, ImageNet: top-1 (%)'], odbb['paper: V100, batch 128 (s)']) == (75.24, 0.031)
    assert 'mobilenetv2_digits-seed1' in {t.name for t in lab.asked}


def test_figure1_on_imagenet_has_stock_networks_as_published(quick, fake_lab, monkeypatch):
    network = nn.Identity()
    network._config = Config(dict(model=dict(backbone={})))
    monkeypatch.setattr(figure1, 'fused_network', lambda *args: network)
    monkeypatch.setattr(figure1, 'stock_network', lambda name: network)
    report = figure1.make(lab := fake_lab(), SCALES['imagenet'], [0])
    rows = {row['model']: row for row in report.rows}
    assert set(rows) == {f'{label}-{arch}' for label in ('ODBB', 'RepVGG') for arch in figure1.ARCHS} | (
        set(table2.STOCK) - {'RepVGG-A1'}
    )
    assert rows['ResNet-18'] == {'model': 'ResNet-18', 'batch 128 (s)': 0.011, 'mmpretrain: top-1 (%)': 69.9}
    assert rows['ODBB-B3']['paper, ImageNet: top-1 (%)'] == 80.97
    assert len(lab.asked) == 12  # nothing stock is trained
