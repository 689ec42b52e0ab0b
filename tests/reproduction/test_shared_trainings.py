"""The trainings that items share: their configs exist, their options are settings, their budgets are as told."""

import pytest
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from repnas_mm.models import ODBBBackbone
from repnas_mm.search import Genotype, find_blocks
from reproduction import Lab, random_search, shared_trainings
from reproduction.scales import ARCHS, SCALES

from pretended import CONFIGS, check_options  # isort: skip

ABLATIONS = [scale for scale in SCALES.values() if 'figure4' in scale.items]
SEARCHES = [scale for scale in SCALES.values() if 'table4' in scale.items]


def build(training):
    cfg = training.load_config(CONFIGS)
    init_default_scope('mmpretrain')
    return cfg, MODELS.build(cfg.model)


@pytest.mark.parametrize('scale', ABLATIONS, ids=lambda scale: scale.name)
@pytest.mark.parametrize('method', shared_trainings.HAND_MADE)
def test_hand_made_networks_have_the_branches_told(scale, method):
    _, model = build(shared_trainings.network(scale.ablation.format(method), 0))
    genotype = Genotype.from_model(model)
    assert genotype.num_branches == shared_trainings.branches_of(scale, method)
    assert genotype.share_weights is False


@pytest.mark.parametrize('scale', ABLATIONS, ids=lambda scale: scale.name)
def test_searches_have_c_and_the_data_order_of_the_others(scale):
    training = shared_trainings.search(scale.ablation, scale.sweep[0], 7)
    check_options(training)
    cfg = training.load_config(CONFIGS)
    assert cfg.custom_hooks[0].num_branches == scale.sweep[0]
    plain = shared_trainings.network(scale.ablation.format('plain'), 7).load_config(CONFIGS)
    for key in ('train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'randomness'):
        assert cfg[key] == plain[key]


@pytest.mark.parametrize('arch', ['A0', 'B3'])
@pytest.mark.parametrize('scale', SEARCHES, ids=lambda scale: scale.name)
def test_repvgg_and_odbb_of_an_arch_differ_only_in_their_branches(scale, arch):
    pair = [shared_trainings.arch_network(scale, method, arch, 0) for method in ('repvgg', 'odbb')]
    for training in pair:
        check_options(training)
    repvgg, odbb = (training.load_config(CONFIGS) for training in pair)
    assert repvgg.model.backbone.pop('genotype') == 'repvgg'
    repvgg.model.backbone.share_weights = odbb.model.backbone.share_weights
    assert repvgg.model == odbb.model
    assert repvgg.train_dataloader == odbb.train_dataloader and repvgg.train_cfg == odbb.train_cfg
    if scale.base_channels < 64:
        _, model = build(pair[0])
        assert sum(len(b.branches) for b in find_blocks(model).values()) == odbb.custom_hooks[0].num_branches


@pytest.mark.parametrize('arch', ARCHS)
def test_repvgg_branches(arch):
    backbone = ODBBBackbone(arch=arch, base_channels=8, genotype='repvgg')
    assert shared_trainings.repvgg_branches(arch) == Genotype.from_model(backbone).num_branches


@pytest.mark.parametrize('name', ['digits', 'fashion', 'cifar10'])
def test_draws_are_chosen_without_the_test_set(name, fake_lab):
    scale = SCALES[name]
    lab = fake_lab(lambda name: 80 + ('draw17-' in name))
    best = random_search.draw_and_choose(lab, scale, scale.ablation, 39, scale.short_epochs)
    assert best == 17 and len(lab.asked) == random_search.DRAWS == 25
    first = lab.asked[0]
    check_options(first)
    cfg = first.load_config(CONFIGS)
    assert cfg.model.backbone.genotype == dict(preset='random', num_branches=39, seed=0)
    assert cfg.param_scheduler.T_max == cfg.param_scheduler.end == cfg.train_cfg.max_epochs == scale.short_epochs
    train, test = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
    assert cfg.val_dataloader.dataset == test
    assert test.split == train.split == 'train' and not test.get('test_mode')
    size = {'digits': 1437, 'fashion': 60000, 'cifar10': 50000}[name]
    assert train.indices <= size + test.indices  # counted from the end
    # the other draws differ by their genotype only
    draws = [dict(training.options) for training in lab.asked]
    assert [options.pop('model.backbone.genotype.seed') for options in draws] == list(range(25))
    assert all(options == draws[0] for options in draws)
    cfg, model = build(random_search.drawn_network(scale.ablation, 39, best, 2))
    assert Genotype.from_model(model).num_branches == 39
    assert Genotype.from_model(model).share_weights is (name == 'cifar10')
    # the schedule and the images of all other rows
    plain = shared_trainings.network(scale.ablation.format('plain'), 2).load_config(CONFIGS)
    assert cfg.train_dataloader == plain.train_dataloader and cfg.train_cfg == plain.train_cfg


def test_held_out_images_are_not_trained_on(tmp_path):
    """On real data: the labels that choose a draw are those of the last training images."""
    lab = Lab(tmp_path, CONFIGS, log=lambda line: None)
    asked = []
    lab.run = lambda trainings: asked.extend(trainings) or {t: FakeResult for t in trainings}
    random_search.draw_and_choose(lab, SCALES['digits'], 'vgg16_{}_digits', 39, 1)
    cfg = asked[0].load_config(CONFIGS)
    init_default_scope('mmpretrain')
    from mmpretrain.registry import DATASETS

    whole = DATASETS.build(dict(type='Digits', split='train'))
    trained, chosen = (DATASETS.build(cfg[f'{s}_dataloader'].dataset) for s in ('train', 'test'))
    assert len(trained) + len(chosen) == len(whole)
    labels = [int(whole.get_data_info(i)['gt_label']) for i in range(len(whole))]
    assert labels[: len(trained)] == [int(trained.get_data_info(i)['gt_label']) for i in range(len(trained))]
    assert labels[len(trained) :] == [int(chosen.get_data_info(i)['gt_label']) for i in range(len(chosen))]


class FakeResult:
    metrics = {'accuracy/top1': 1.0}
