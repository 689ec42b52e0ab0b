"""Tables 3 and 4, Figures 4 to 11: the rows are the trainings' results, with the paper's beside them."""

import statistics

import pytest
from mmengine.config import Config
from mmpretrain import get_model

from repnas_mm.models import ODBBBackbone
from repnas_mm.search import Genotype, find_blocks, find_candidates
from reproduction import ITEMS, SCALES
from reproduction.items import deep, figure4, figure5, genotypes, schedule, stock, table3, table4
from reproduction.scales import ARCHS

from pretended import CONFIGS, HereLab, check_options  # isort: skip


def score(name):
    """Any accuracy, but one for each name."""
    return 80 + sum(map(ord, name)) % 1000 / 100


def put_genotype(folder, backbone):
    """What a search leaves, as if it had found ACB."""
    folder.mkdir()
    blocks = {f'backbone.{name}': block for name, block in find_candidates(backbone).items()}
    Genotype.from_preset('acb', blocks).dump(folder / 'genotype.json')


def deep_backbone(scale):
    return get_model(Config.fromfile(CONFIGS / f'odbb_deep_{scale}.py')).backbone


def test_every_item_of_a_scale_is_known():
    for scale in SCALES.values():
        assert set(scale.items) <= set(ITEMS)
        with pytest.raises(ValueError, match=rf"^Scale '{scale.name}' has no table9; scales that have it: \.$"):
            scale.check('table9')
    with pytest.raises(ValueError, match="Scale 'coco' has no table3; scales that have it: digits, fashion, cifar10"):
        SCALES['coco'].check('table3')


def test_table3(fake_lab):
    lab = fake_lab(score)
    for name in (f'vgg16_odbb_digits-c{c}-seed{seed}' for c in (20, 39, 52) for seed in (0, 1, 2)):
        put_genotype(lab.folder / name, ODBBBackbone(arch='VGG16', base_channels=4))
    report = table3.make(lab, SCALES['digits'], [0, 1, 2])
    rows = {(row['block'], row['branches']): row for row in report.rows}
    methods = ('random', 'odbb', 'odbb, from scratch')
    compared = {(method, c) for method in methods for c in (20, 39, 52)}
    assert set(rows) == {('plain', 13), ('acb', 39), ('dbb', 52), ('repvgg', 35)} | compared
    assert rows['odbb', 52]['top-1 (%)'].values == tuple(score(f'vgg16_odbb_digits-c52-seed{s}') for s in (0, 1, 2))
    base = statistics.mean(score(f'vgg16_plain_digits-seed{s}') for s in (0, 1, 2))
    assert rows['acb', 39]['improvement (%)'] == pytest.approx(rows['acb', 39]['top-1 (%)'].mean - base)
    assert rows['odbb', 39]['paper, CIFAR-10: top-1 (%)'] == 94.68
    assert rows['odbb', 39]['paper: improvement (%)'] == 0.85
    assert rows['repvgg', 35]['paper, CIFAR-10: top-1 (%)'] is None
    anew = [training for training in lab.asked if training.name.startswith('vgg16_plain_digits-odbb-c')]
    assert rows['odbb, from scratch', 52]['top-1 (%)'].values == tuple(score(t.name) for t in anew[6:])
    assert all(
        t.options['model.backbone.genotype']['blocks']['backbone.stage_1.0'] == ['kxk', '1xk', 'kx1'] for t in anew
    )
    assert len(lab.asked) == 3 * 25 + (4 + 3 * 3) * 3
    legend = report.figures[''].axes[0].get_legend_handles_labels()[1]
    assert set(legend) == {*methods, 'plain', 'acb', 'dbb', 'repvgg'}


def test_table4(fake_lab):
    report = table4.make(fake_lab(score), SCALES['imagenet'], [0])
    assert [row['arch'] for row in report.rows] == list(ARCHS)
    # the paper's, whose B1 is a misprint
    counted = [8.309, 12.790, 25.500, 51.829, 80.315, 110.961]
    assert [row['parameters (M)'] for row in report.rows] == pytest.approx(counted, abs=1e-3)
    b1 = report.rows[3]
    assert b1['RepVGG (%)'].values == (score('repvgg_b1_imagenet-seed0'),)
    assert b1['gain (%)'] == pytest.approx(score('odbb_b1_imagenet-seed0') - score('repvgg_b1_imagenet-seed0'))
    assert (b1['branches'], b1['paper, ImageNet: RepVGG (%)'], b1['paper: gain (%)']) == (84, 78.37, 0.24)
    assert table4.make(fake_lab(score), SCALES['digits'], [0]).rows[0]['branches'] == 61


def test_figure4(fake_lab):
    scale = SCALES['fashion']
    report = figure4.make(fake_lab(score), scale, [0, 1])
    curve = [row for row in report.rows if row['block'] == 'odbb']
    assert [row['branches'] for row in curve] == list(scale.sweep)
    assert {row['block'] for row in report.rows} == {'odbb', 'plain', 'acb', 'dbb', 'repvgg'}
    assert curve[0]['top-1 (%)'].values == tuple(score(f'vgg16_odbb_fashion-c20-seed{s}') for s in (0, 1))


def test_a_longer_schedule_searches_for_a_fifth_of_it(fake_lab):
    lab = fake_lab(score)
    report = schedule.make(lab, SCALES['fashion'], [1])
    rows = {(row['block'], row['epochs']): row['top-1 (%)'].values for row in report.rows}
    assert set(rows) == {(method, epochs) for method in ('odbb', 'plain', 'dbb') for epochs in (7, 21)}
    assert rows['odbb', 7] == (score('vgg16_odbb_fashion-c39-seed1'),)  # Table 3's
    assert rows['plain', 21] == (score('vgg16_plain_fashion-seed1-21epochs'),)
    for training in lab.asked:
        check_options(training)
        cfg = training.load_config(CONFIGS)
        warmup, cosine = cfg.param_scheduler
        assert cfg.train_cfg.max_epochs == cfg.train_cfg.val_interval == cosine.end == warmup.end + cosine.T_max
        assert warmup.end == cosine.begin == 2
        if 'odbb' in training.name:
            assert cfg.custom_hooks[0].frozen == {7: 6, 21: 17}[cfg.train_cfg.max_epochs]
    assert {t.load_config(CONFIGS).train_cfg.max_epochs for t in lab.asked} == {7, 21}
    assert '32 in all' in report.notes[0]


def test_figures6_to_11(fake_lab):
    lab = fake_lab()
    for arch in ARCHS:
        put_genotype(lab.folder / f'odbb_a0_digits-{arch.lower()}-seed0', ODBBBackbone(arch=arch, base_channels=8))
    report = genotypes.make(lab, SCALES['digits'], [0, 1])
    assert set(report.figures) == {f'-{arch}' for arch in ARCHS}
    assert len(report.rows) == 3 * 22 + 3 * 28
    assert report.rows[0] == {'arch': 'A0', 'block': 'backbone.stem', 'branches': 'kxk 1xk kx1'}


def test_figure5_samples_trains_and_shares_what_its_supernet_shares(tiny, tiny_configs, tmp_path):
    lab = HereLab(tmp_path, tiny_configs, log=lambda line: None)
    report = figure5.make(lab, tiny, [1])
    keys = [(row['network'], row['weights'], row['epoch']) for row in report.rows]
    assert keys == [(n, w, e) for n in ('supernet', 'subnet') for w in ('shared', 'unshared') for e in (1, 2)]
    assert all(len(row['top-1 (%)'].values) == 1 for row in report.rows)
    for kind, method in figure5.methods(tiny).items():
        search = tmp_path / f'vgg16_{method}_tiny-unfrozen-seed1'
        sampled = Genotype.load(search / 'genotype_2.json')
        assert sampled.share_weights is (kind == 'shared') and sampled.num_branches == 20
        # without a frozen phase the last sample is what the search ends with
        assert dict(sampled) == dict(Genotype.load(search / 'genotype.json'))
        trained = tmp_path / f'vgg16_plain_tiny-{kind}-epoch2-seed1'
        assert (trained / 'fused.pth').exists()
        assert repr(sampled['backbone.stage_2.0'][0]) in (trained / 'training.json').read_text().replace('"', "'")


@pytest.mark.parametrize('name', ['digits', 'fashion'])
def test_deep(name, fake_lab):
    lab = fake_lab(score)
    for seed in (0, 1):
        put_genotype(lab.folder / f'odbb_deep_{name}-seed{seed}', deep_backbone(name))
    report = deep.make(lab, SCALES[name], [0, 1])
    rows = {row['block']: row for row in report.rows}
    anew = 'odbb, from scratch'
    assert list(rows) == ['odbb', *deep.HAND_MADE, 'kxk and skip', 'odbb by Algorithm 1', anew, 'random']
    assert rows['odbb']['top-1 (%)'].values == tuple(score(f'odbb_deep_{name}-seed{s}') for s in (0, 1))
    assert rows[anew]['top-1 (%)'].values == tuple(score(f'plain_deep_{name}-odbb-seed{s}') for s in (0, 1))
    assert (
        rows['plain']['branches'] == 40
        and rows['repvgg']['branches'] == 40 + 40 + rows['kxk and skip']['branches'] - 40
    )
    assert rows['odbb']['CPU seconds'] is None  # nothing was trained
    for training in lab.asked:
        check_options(training)


def test_stock_networks_are_searched_with_the_branches_of_repvgg(fake_lab):
    lab = fake_lab(score)
    report = stock.make(lab, SCALES['digits'], [0, 1])
    rows = {(row['network'], row['block']): row for row in report.rows}
    assert set(rows) == {(net, way) for net in stock.TRAINED for way in ('stock', 'repvgg', 'odbb')}
    resnet = 'ResNet-18, 1/8'
    assert rows[resnet, 'stock']['top-1 (%)'].values == tuple(score(f'resnet18_digits-seed{s}') for s in (0, 1))
    assert rows[resnet, 'odbb']['top-1 (%)'].values == tuple(score(f'resnet18_digits-odbb-seed{s}') for s in (0, 1))
    # a stem, four stages of four convolutions, of which all but three strides and the wider stem keep the channels
    assert [rows[resnet, way]['branches'] for way in ('stock', 'repvgg', 'odbb')] == [17, 47, 47]
    for training in (t for t in lab.asked if t.name.endswith('seed0')):
        check_options(training)
        cfg = training.load_config(CONFIGS)
        blocks = find_blocks(get_model(cfg)).values()
        if training.name.startswith('mobilenetv2_digits-odbb'):
            assert cfg.custom_hooks[0].num_branches == 49 and sum(block.groups > 1 for block in blocks) == 17
        elif '-repvgg-' in training.name:
            assert blocks and {'kxk', '1x1'} <= set.union(*(set(block.active_branches) for block in blocks))
        assert bool(blocks) is ('-repvgg-' in training.name or '-odbb-' in training.name)
