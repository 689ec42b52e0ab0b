"""From a trained stock network to its ODBB version, through a search, and back into the stock architecture."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from repnas_mm.engine.checkpoint import load_file
from repnas_mm.engine.fusing import max_difference, raw_output
from repnas_mm.engine.log_history import log_history_allowed
from repnas_mm.search import Genotype, find_blocks


@pytest.fixture
def stock_cfg(small_cfg):
    """A narrow stock ResNet-18 on the digits."""
    small_cfg.model.backbone = dict(type='ResNet', depth=18, in_channels=1, base_channels=8, stem_channels=8)
    small_cfg.model.head.in_channels = 64
    small_cfg.custom_hooks = []
    small_cfg.train_cfg.max_epochs = 2
    return small_cfg


@pytest.fixture
def trained(stock_cfg, run):
    """Its checkpoint."""
    run(stock_cfg)
    return str(Path(stock_cfg.work_dir) / 'epoch_2.pth')


@pytest.fixture
def odbb_cfg(stock_cfg):
    """The same config, one key and the hooks added."""
    cfg = deepcopy(stock_cfg)
    cfg.model.backbone.conv_cfg = dict(type='ODBBConv2d')
    cfg.work_dir += '_odbb'
    cfg.train_cfg.max_epochs = 4
    alpha = dict(type='Adam', lr=0.02)
    cfg.custom_hooks = [
        dict(type='RepNASHook', strategy='sample', num_branches=30, frozen=2, alpha_optimizer=alpha),
        dict(type='FuseHook'),
    ]
    return cfg


def images_of(cfg):
    return torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def build(cfg, checkpoint=None):
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    if checkpoint:
        model.load_state_dict(load_file(checkpoint)['state_dict'])
    return model


def test_before_any_training_the_outputs_are_the_stock_networks(stock_cfg, odbb_cfg, trained):
    images = images_of(stock_cfg)
    expected = raw_output(build(stock_cfg, trained), images)
    assert max_difference(expected, raw_output(build(odbb_cfg, trained), images)) < 1e-6
    # and by the way configs give: init_cfg, here of the whole model
    odbb_cfg.model.init_cfg = dict(type='Pretrained', checkpoint=trained)
    model = build(odbb_cfg)
    with log_history_allowed():  # as a runner with one of the hooks has it
        model.init_weights()
    assert max_difference(expected, raw_output(model, images)) < 1e-6


def test_the_stock_checkpoint_tests_alike_in_the_odbb_config(stock_cfg, odbb_cfg, trained):
    scores = []
    for cfg in (stock_cfg, odbb_cfg):  # the second is fused again before testing
        cfg = deepcopy(cfg)
        cfg.custom_hooks = [*cfg.custom_hooks, dict(type='SafeLoadHook')]
        cfg.load_from, cfg.experiment_name = trained, f'test_{len(scores)}_{cfg.work_dir}'
        scores.append(Runner.from_cfg(cfg).test())
    assert scores[0] == scores[1]


def test_a_search_starts_from_it_and_ends_as_the_stock_network(stock_cfg, odbb_cfg, trained, run):
    odbb_cfg.load_from = trained
    run(odbb_cfg)
    folder = Path(odbb_cfg.work_dir)
    genotype = Genotype.load(folder / 'genotype.json')
    assert genotype.num_branches == 30
    assert sum('kxk' in branches for branches in genotype.values()) > len(genotype) / 2  # the head start
    fused = load_file(folder / 'fused.pth')['state_dict']
    before = load_file(trained)['state_dict']
    assert {key: value.shape for key, value in fused.items()} == {key: value.shape for key, value in before.items()}
    assert not torch.equal(fused['backbone.layer1.0.conv1.weight'], before['backbone.layer1.0.conv1.weight'])
    model = build(stock_cfg)
    model.load_state_dict(fused)
    assert not find_blocks(model)


def test_a_search_does_not_start_from_a_subnet(odbb_cfg, trained, run):
    odbb_cfg.load_from = trained
    run(odbb_cfg)
    odbb_cfg.load_from = str(Path(odbb_cfg.work_dir) / 'subnet.pth')
    with pytest.raises(ValueError, match='as a subnet, with nothing left to search; remove RepNASHook'):
        run(odbb_cfg)


def test_a_subnet_of_a_conv_cfg_model_is_fine_tuned_and_fused(stock_cfg, odbb_cfg, trained, run):
    run(odbb_cfg)
    subnet = Path(odbb_cfg.work_dir) / 'subnet.pth'
    # EMA lists its parameters before the subnet is loaded
    odbb_cfg.custom_hooks = [dict(type='FuseHook'), dict(type='EMAHook')]
    odbb_cfg.load_from = str(subnet)
    odbb_cfg.work_dir += '_tuned'
    run(odbb_cfg)
    last = load_file(Path(odbb_cfg.work_dir) / 'epoch_4.pth')['state_dict']
    assert last.keys() == load_file(subnet)['state_dict'].keys()
    assert not torch.equal(last['head.fc.weight'], load_file(subnet)['state_dict']['head.fc.weight'])
    fused = load_file(Path(odbb_cfg.work_dir) / 'fused.pth')['state_dict']
    assert fused.keys() == load_file(trained)['state_dict'].keys()
