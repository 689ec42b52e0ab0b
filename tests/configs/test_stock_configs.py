"""Stock configs of mmpretrain and mmdet become ODBB networks by config alone: searched, fused, and stock again."""

from functools import partial

import numpy as np
import pytest
import torch
from mmcv import imwrite
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope

from repnas_mm.datasets import write_coco_digits
from repnas_mm.engine.checkpoint import build_model, load_file
from repnas_mm.engine.fusing import fuse_checked, max_difference, network_output
from repnas_mm.search import Genotype, find_blocks

CONV = dict(type='ODBBConv2d')
#: Side of the images, in pixels
SIZE = 96


def use_conv_cfg(*parts):
    def edit(model):
        for part in parts:
            model[part].conv_cfg = CONV

    return edit


def use_base(model):
    model.backbone = dict(type='mmpretrain.ODBBBackbone', base=model.backbone)


# config -> (what turns it ODBB, blocks in it)
CONFIGS = {
    'mmpretrain::resnet/resnet18_8xb32_in1k.py': (use_conv_cfg('backbone'), 17),
    'mmpretrain::resnext/resnext50-32x4d_8xb32_in1k.py': (use_conv_cfg('backbone'), 17),
    'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py': (use_conv_cfg('backbone'), 18),
    'mmpretrain::vgg/vgg11bn_8xb32_in1k.py': (use_conv_cfg('backbone'), 8),
    'mmpretrain::efficientnet/efficientnet-b0_8xb32_in1k.py': (use_base, 17),
    'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py': (use_conv_cfg('backbone', 'neck', 'bbox_head'), 30),
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py': (use_conv_cfg('backbone', 'neck', 'bbox_head'), 17),
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Eight images in two folders, and an embedded COCO."""
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for i in range(8):
        imwrite(rng.integers(0, 255, (80, 80, 3), dtype=np.uint8), str(root / 'images' / f'{i % 2}' / f'{i}.png'))
    write_coco_digits(root / 'coco', num_train=4, num_val=2, image_size=SIZE)
    return root


def shrink(cfg, data, work_dir):
    """Two iterations on tiny data; what remains of the stock config is the model and the optimizer."""
    scope = cfg.default_scope
    if scope == 'mmdet':
        pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(SIZE, SIZE)),
            dict(type='PackDetInputs'),
        ]
        dataset = dict(
            type='CocoDataset',
            data_root=str(data / 'coco'),
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017'),
            metainfo=dict(classes=tuple(map(str, range(80)))),  # as many as the stock heads have
            pipeline=pipeline,
        )
        collate = 'pseudo_collate'
    else:
        pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=SIZE), dict(type='PackInputs')]
        dataset = dict(type='CustomDataset', data_root=str(data / 'images'), pipeline=pipeline)
        collate = 'default_collate'
    cfg.train_dataloader = dict(
        batch_size=4 if scope == 'mmpretrain' else 2,
        num_workers=0,
        dataset=dataset,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type=collate),
    )
    for key in ('val', 'test'):
        cfg[f'{key}_cfg'] = cfg[f'{key}_dataloader'] = cfg[f'{key}_evaluator'] = None
    cfg.train_cfg = dict(by_epoch=True, max_epochs=1)
    cfg.param_scheduler = None
    cfg.optim_wrapper.optimizer.lr = 1e-4
    cfg.default_hooks.checkpoint.update(interval=10, save_last=False)
    cfg.default_hooks.pop('visualization')
    cfg.work_dir = str(work_dir)
    cfg.randomness = dict(seed=0)
    if 'vgg' in cfg.filename:  # whose own classifier has 124 million weights
        cfg.model.backbone.num_classes = -1
        cfg.model.neck = dict(type='GlobalAveragePooling')
        cfg.model.head = dict(type='LinearClsHead', num_classes=2, in_channels=512)
    drop_pretrained(cfg.model)


def drop_pretrained(node):
    """There is no network to download from."""
    if isinstance(node, dict):
        if isinstance(node.get('init_cfg'), dict) and node['init_cfg'].get('type') == 'Pretrained':
            node['init_cfg'] = None
        for value in node.values():
            drop_pretrained(value)


def share_weights(node):
    if isinstance(node, dict):
        if str(node.get('type')).endswith(('ODBBConv2d', 'ODBBBackbone')):
            node['share_weights'] = True
        for value in node.values():
            share_weights(value)


def build(cfg):
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.eval()
    return model


@pytest.mark.parametrize('path', CONFIGS)
def test_a_stock_config_starts_its_blocks_as_documented(path, data, tmp_path, monkeypatch):
    """γ = 1 / n where branches share a kernel, whatever the stock model's initialization says of norms."""
    for name in ('normal_', 'uniform_'):  # most of the time, and of no interest here
        monkeypatch.setattr(torch.Tensor, name, lambda tensor, *_, **__: tensor)
    edit, _ = CONFIGS[path]
    cfg = get_config(path)
    shrink(cfg, data, tmp_path)
    edit(cfg.model)
    share_weights(cfg.model)
    model = build(cfg)
    model.init_weights()
    for block in find_blocks(model).values():
        assert all((branch.norm.weight == 1 / len(block.candidates)).all() for branch in block.branches.values())


@pytest.mark.parametrize('path', CONFIGS)
def test_a_stock_config_is_searched_and_comes_back_as_the_stock_model(path, data, tmp_path, run):
    edit, num_blocks = CONFIGS[path]
    cfg = get_config(path)
    shrink(cfg, data, tmp_path)
    stock = build(cfg)
    edit(cfg.model)
    cfg.custom_imports = dict(imports=['repnas_mm'])
    cfg.custom_hooks = [
        *cfg.get('custom_hooks', []),
        dict(type='RepNASHook', strategy='sample', num_branches=2 * num_blocks),
        dict(type='FuseHook'),
    ]
    runner = run(cfg)

    genotype = Genotype.load(tmp_path / 'genotype.json')
    assert len(genotype) == num_blocks
    assert genotype.num_branches >= 2 * num_blocks  # frozen blocks are not searched

    fused_cfg, checkpoint = Config.fromfile(tmp_path / 'fused.py'), load_file(tmp_path / 'fused.pth')
    assert 'ODBB' not in str(fused_cfg.model) and 'repnas_mm' not in str(fused_cfg.custom_imports)
    fused = build_model(fused_cfg, checkpoint)
    keys = {key: value.shape for key, value in stock.state_dict().items()}
    assert {key: value.shape for key, value in checkpoint['state_dict'].items()} == keys

    subnet = build_model(Config.fromfile(tmp_path / 'subnet.py'), load_file(tmp_path / 'subnet.pth'))
    # real images, because a network two iterations from its random start amplifies rounding on anything else
    loader = runner.train_dataloader
    batch = loader.collate_fn([loader.dataset[i] for i in range(2)])
    assert max_difference(network_output(subnet, batch), network_output(fused, batch)) < 1e-4

    # and the other way: ordinary weights start the ODBB network where they are
    start = build_model(cfg, dict(state_dict=checkpoint['state_dict']))
    assert len(find_blocks(start)) == num_blocks
    assert max_difference(network_output(fused, batch), network_output(start, batch)) < 1e-4
    # such networks amplify rounding, which is not the same on every CPU; their weights do not
    fuse_checked(start, partial(network_output, batch=batch))
    torch.testing.assert_close(dict(start.state_dict()), checkpoint['state_dict'], rtol=1e-6, atol=1e-6)
