"""A pure-Python config, classes in the place of names, from the search to the fused network and through the tools."""

import pytest
import torch
from mmengine.config import Config

from repnas_mm.engine.checkpoint import build_model, load_file
from repnas_mm.engine.form_configs import deploy_config
from repnas_mm.engine.fusing import max_difference, raw_output

BASE = """
from mmcv.transforms import Resize
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.datasets import PackInputs
from repnas_mm.datasets import Digits
from torch.optim import SGD

default_scope = None
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=Digits, split='train', indices=48, pipeline=[dict(type=Resize, scale=16), dict(type=PackInputs)]
    ),
    sampler=dict(type=DefaultSampler, shuffle=True),
)
optim_wrapper = dict(optimizer=dict(type=SGD, lr=0.05))
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=3)
"""

CONFIG = """
import mmpretrain.models as models
from mmengine.config import read_base
from repnas_mm.engine import FuseHook, RepNASHook
from repnas_mm.models import {block}

with read_base():
    from .base import *

model = dict(
    type=models.ImageClassifier,
    data_preprocessor=dict(type=models.ClsDataPreprocessor, mean=[80.0], std=[96.0]),
    backbone={backbone},
    neck=dict(type=models.GlobalAveragePooling),
    head=dict(type=models.LinearClsHead, num_classes=10, in_channels={channels}),
)
custom_hooks = [dict(type=RepNASHook, num_branches={branches}, frozen=1), dict(type=FuseHook)]
"""
RESNET = 'dict(type=models.ResNet_CIFAR, depth=18, in_channels=1, base_channels=4, stem_channels=4'
ARCH = 'dict(num_blocks=[1, 1], width_factor=[1, 1], strides=[1, 2])'

BACKBONES = {
    'conv_cfg': dict(
        block='ODBBConv2d',
        backbone=f'{RESNET}, conv_cfg=dict(type=ODBBConv2d))',
        channels=32,
        branches=40,
    ),
    'base': dict(
        block='ODBBBackbone',
        backbone=f'dict(type=ODBBBackbone, base={RESNET}))',
        channels=32,
        branches=40,
    ),
    'backbone': dict(
        block='ODBBBackbone',
        backbone=f'dict(type=ODBBBackbone, in_channels=1, base_channels=4, arch={ARCH})',
        channels=8,
        branches=9,
    ),
}


@pytest.mark.parametrize('backbone', ['conv_cfg', 'backbone'])
def test_it_is_searched_written_and_read(tmp_path, run, backbone):
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'pure.py').write_text(CONFIG.format(**BACKBONES[backbone]))
    cfg = Config.fromfile(tmp_path / 'pure.py')
    cfg.work_dir = str(tmp_path / 'run')
    runner = run(cfg)
    images, outputs = torch.randn(4, 1, 16, 16), []
    for name, config in (('subnet', 'run/subnet.py'), ('fused', 'run/fused.py'), ('fused', 'pure.py')):
        written = Config.fromfile(tmp_path / config)
        outputs.append(raw_output(build_model(written, load_file(tmp_path / f'run/{name}.pth')), images))
    outputs.append(raw_output(build_model(cfg, load_file(tmp_path / 'run/epoch_3.pth')), images))
    outputs.append(raw_output(runner.model, images))
    assert all(max_difference(outputs[0], other) < 1e-4 for other in outputs[1:])
    text = (tmp_path / 'run/fused.py').read_text()
    assert "type='mmpretrain.models.ImageClassifier'" in text and 'RepNASHook' not in text and '<' not in text


def test_a_converted_backbone_leaves_the_stock_config_behind(tmp_path):
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'pure.py').write_text(CONFIG.format(**BACKBONES['base']))
    fused = deploy_config(Config.fromfile(tmp_path / 'pure.py'))
    assert fused.model.backbone.type == 'mmpretrain.models.ResNet_CIFAR' and 'ODBB' not in fused.pretty_text


def test_built_classes_have_names_too(small_cfg):
    from mmengine.dataset import default_collate
    from mmpretrain.models import LinearClsHead

    small_cfg.model.head.type, small_cfg.train_dataloader.collate_fn = LinearClsHead, dict(type=default_collate)
    text = deploy_config(small_cfg).pretty_text
    assert "type='mmpretrain.models.heads.linear_head.LinearClsHead'" in text
    assert "type='mmengine.dataset.utils.default_collate'" in text
