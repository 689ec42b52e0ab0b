"""`python -m repnas_mm describe`: what a config would search, and one sentence for one that cannot be described."""

import re
import subprocess
from copy import deepcopy

import pytest
import torch
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from mmengine.registry import MODELS
from torch import nn

from repnas_mm.__main__ import main
from repnas_mm.engine.describe import describe
from repnas_mm.models import ODBBConv2d, ODBBlock, to_odbb
from repnas_mm.models.survey import summary, survey
from repnas_mm.search import find_blocks

IMPORTS = "custom_imports = dict(imports=['repnas_mm'], allow_failed_imports=False)\nfind_unused_parameters = True\n"
HOOKS = ("'RepNASHook', num_branches=40", "'FuseHook'", "'ExactResumeHook'", "'CheckFiniteHook'")
PIPELINE = "train_dataloader = dict(batch_size=2, dataset=dict(pipeline=[dict(type='Resize', scale=1600)]))\n"


@pytest.fixture
def write(tmp_path):
    """Writes a config and returns its path."""

    def to_file(text, scope='mmpretrain'):
        path = tmp_path / 'config.py'
        path.write_text(f'default_scope = {scope!r}\n{text}', encoding='utf-8')
        return str(path)

    return to_file


def rows(text):
    """First word of a line -> the others."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


# ---------------------------------------------------------------- which convolutions


def conv(*args, **kwargs):
    return nn.Conv2d(3, 3, *args, **kwargs)


class OwnConv(nn.Conv2d):
    """Another class of convolution."""


class Rep(nn.Module):
    """A layer of other code that fuses itself."""

    def __init__(self):
        super().__init__()
        self.conv = conv(3)

    def get_equivalent_kernel_bias(self):
        pass


KINDS = {
    '1×1': conv(1),
    'even kernel': conv(2),
    'oblong kernel': conv((1, 7)),
    'two strides or dilations': conv(3, stride=(1, 2)),
    'padding other than zeros': conv(3, padding='same'),
    'a OwnConv': OwnConv(3, 3, 3),
    'transposed': nn.ConvTranspose2d(3, 3, 3),
    '1-D': nn.Conv1d(3, 3, 3),
    '3-D': nn.Conv3d(3, 3, 3),
    'inside a Rep': Rep(),
    'eligible': Conv2dAdaptivePadding(3, 3, 3),
    'block': ODBBConv2d(3, 3, 3),
    'frozen block': ODBBlock(3, 3).requires_grad_(False),
    'fused block': ODBBlock(3, 3, deploy=True),
}


@pytest.mark.parametrize(('kind', 'layer'), KINDS.items(), ids=KINDS)
def test_every_convolution_is_a_block_or_plain_for_a_reason(kind, layer):
    model = nn.Sequential(nn.ModuleDict({'layer': layer}))
    assert [found.kind for found in survey(model)] == [kind]
    assert survey(model)[0].part == '0'


def test_shared_convolutions_and_offsets_have_their_reasons():
    shared, model = conv(3), nn.Module()
    model.first, model.second, model.conv_offset = shared, nn.Sequential(shared), conv(3)
    kinds = ['shared by layers with norms of their own', 'offsets of a deformable convolution']
    assert [(found.name, found.kind) for found in survey(model)] == [*zip(['first', 'conv_offset'], kinds)]


def test_a_deformable_convolution_and_its_offsets_are_two():
    ops = pytest.importorskip('mmcv.ops')
    model = nn.Sequential(ops.ModulatedDeformConv2dPack(3, 3, 3, padding=1))
    kinds = ['deformable', 'offsets of a deformable convolution']
    assert [(found.name, found.kind) for found in survey(model)] == [*zip(['0', '0.conv_offset'], kinds)]


@pytest.mark.parametrize('kind', [kind for kind in KINDS if 'block' not in kind])
def test_what_is_eligible_is_what_base_makes_a_block(kind):
    model = to_odbb(nn.ModuleList([conv(3), nn.ModuleList([deepcopy(KINDS[kind])])]))
    assert len(find_blocks(model)) == 1 + (kind == 'eligible')


def test_a_search_is_summed_up_in_three_lines():
    model = nn.ModuleDict(dict(backbone=nn.Sequential(ODBBConv2d(3, 3, 3), conv(1)), head=nn.Sequential(conv(3))))
    lines = summary(model, find_blocks(model).values())
    assert len(lines) == 3
    assert '1 of 3 convolutions are searched: 1 backbone; plain for good: 1 1×1' in lines[0]
    assert '7 candidate branches' in lines[1] and 'plain 1, acb 3, repvgg 3, dbb 4, full 7' in lines[1]
    assert 'More could be blocks: 1 head' in lines[2]


def test_the_hook_logs_it_when_a_search_begins(small_cfg, run, monkeypatch):
    logged = []
    monkeypatch.setattr('mmengine.logging.MMLogger.info', lambda self, text, *_: logged.append(str(text)))
    run(small_cfg, stop_after=1)
    found = [text for text in logged if 'convolutions are searched' in text]
    assert len(found) == 1 and len(found[0].splitlines()) <= 3 and '4 of 4' in found[0]


# ---------------------------------------------------------------- configs

RESNET = """
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, stem_channels=4, base_channels=4{conv_cfg}),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=32),
)
"""
DENSENET = "dict(type='DenseNet', arch=dict(growth_rate=4, depths=[2, 2], init_channels=8))"
CONV_CFG = ", conv_cfg=dict(type='ODBBConv2d')"


DETECTOR = """
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, stem_channels=4, base_channels=4, conv_cfg=dict(type='ODBBConv2d')),
    neck=dict(type='FPN', in_channels=[8, 16, 32], out_channels=8, num_outs=3),
    bbox_head=dict(type='CenterNetHead', num_classes=2, in_channels=8, feat_channels=8),
)
"""
NECK = "dict(type='FPN', in_channels={}, out_channels=8, num_outs=3)"
STOCK = {
    'conv_cfg': (RESNET.format(conv_cfg=''), 'mmpretrain', 17),
    'None': (RESNET.format(conv_cfg=', conv_cfg=None'), 'mmpretrain', 17),
    'base': (f"model = dict(type='ImageClassifier', backbone={DENSENET})", 'mmpretrain', 5),
    'list': (
        DETECTOR.replace(NECK.format([8, 16, 32]), f'[{NECK.format([8, 16, 32])}, {NECK.format([8, 8, 8])}]'),
        'mmdet',
        17 + 6 + 3,
    ),
}


def test_a_config_that_lacks_nothing(write):
    hooks = f'custom_hooks = [{", ".join(f"dict(type={hook})" for hook in HOOKS)}]\n'
    text = describe(write(IMPORTS + hooks + RESNET.format(conv_cfg=CONV_CFG)))
    assert '17 of 20 convolutions are blocks, 17 of them searched' in text
    assert rows(text)['backbone'] == ['17', '3', '1×1']
    assert 'lacks' not in text and 'does not fit' not in text
    assert [rows(text)[name] for name in ('plain', 'acb', 'dbb')] == [['17'], ['51'], ['68']]
    assert 'A step is not counted: ' in text  # without data there is no image size


def test_a_step_is_counted_by_hand(write):
    arch = 'dict(num_blocks=[1, 1], width_factor=[1, 1], strides=[1, 2])'
    backbone = f"dict(type='ODBBBackbone', arch={arch}, base_channels=4)"
    text = describe(write(f"{PIPELINE}model = dict(type='ImageClassifier', backbone={backbone})"))
    # (side, in, out) of stem, stage 1, stage 2
    layers = [(800, 3, 4), (800, 4, 4), (400, 4, 8)]
    kxk, one = (sum(size * side**2 * i * o for side, i, o in layers) for size in (9, 1))
    assert f'{kxk / 1e6:,.0f} M' in text
    row = rows(text)
    assert row['plain'][:3] == ['3', '×', '1.00'] and row['acb'][0] == '9' and row['repvgg'][0] == '7'
    for name, others in (('acb', 2 / 3 * kxk), ('repvgg', one)):
        assert row[name][2] == f'{1 + others / kxk:.2f}'
    assert row['until'][2:5] == ['13', '×', f'{1 + (2 / 3 * kxk + one) / kxk:.2f}']


def test_each_missing_key_is_named(write):
    text = describe(write(RESNET.format(conv_cfg=CONV_CFG)))
    for key in (
        'custom_imports = ',
        'find_unused_parameters = True',
        "dict(type='RepNASHook', num_branches=",
        *HOOKS[1:],
    ):
        assert key in text


def test_a_stock_config_hears_which_way_reaches_more(write):
    text = describe(write(RESNET.format(conv_cfg='')))
    assert rows(text)['backbone'][:3] == ['0', '17', '17']
    assert "backbone=dict(conv_cfg=dict(type='ODBBConv2d')),  # 17 blocks" in text


def test_base_reaches_what_no_conv_cfg_does(write):
    text = describe(write(f"model = dict(type='ImageClassifier', backbone={DENSENET})"))
    assert rows(text)['backbone'][:3] == ['0', '0', '5']
    assert "type='mmpretrain.ODBBBackbone', base=_base_.model.backbone),  # 5 blocks" in text


def test_each_part_has_the_line_that_reaches_most_there(write):
    text = describe(write(DETECTOR, 'mmdet'))
    assert rows(text)['neck'][:3] == ['0', '3', '3'] and rows(text)['backbone'][:3] == ['17', '17', '17']
    assert "  neck=dict(conv_cfg=dict(type='ODBBConv2d')),  # 3 blocks" in text
    head = "dict(_delete_=True, type='mmpretrain.ODBBBackbone', base=_base_.model.bbox_head)"
    assert f'  bbox_head={head},  # 3 blocks' in text


def test_layers_inside_a_part_have_their_own_lines():
    """An RoI head takes no conv_cfg itself."""
    text = describe('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    assert "  roi_head=dict(mask_head=dict(conv_cfg=dict(type='ODBBConv2d'))),  # 4 blocks" in text


@pytest.mark.parametrize(('text', 'scope', 'blocks'), STOCK.values(), ids=STOCK)
def test_the_lines_do_what_they_say(write, tmp_path, text, scope, blocks):
    base = write(text, scope)
    lines = re.findall(r'^  (\w+=dict\(.*|\w+=\[.*),  # \d+ blocks?$', describe(base).partition('Or another')[0], re.M)
    path = tmp_path / 'inherits.py'
    path.write_text(f"_base_ = '{base}'\nmodel = dict({', '.join(lines)})")
    assert f'{blocks} of ' in describe(str(path)).partition(' are blocks')[0]


def test_parts_that_no_setting_reaches_are_named(write):
    MODELS.register_module(name='OwnNet', module=OwnNet, force=True)
    assert '  layers: 1 could be blocks, but no setting reaches them' in describe(write("model = dict(type='OwnNet')"))


def test_a_model_that_cannot_be_built_without_numbers_is_tried_with_them(write):
    MODELS.register_module(name='CountingNet', module=CountingNet, force=True)
    text = describe(write("model = dict(type='ImageClassifier', backbone=dict(type='mmengine.CountingNet'))"))
    assert rows(text)['backbone'][:3] == ['0', '0', '2']


class CountingNet(nn.Sequential):
    """Reads a number from a tensor, which one on torch's meta device has not."""

    def __init__(self):
        super().__init__(*(conv(3) for _ in range(int(torch.tensor(2)))))


class OwnNet(nn.Module):
    """Its layers have no config."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(conv(3))


@pytest.mark.parametrize(
    ('hook', 'said'),
    [
        ('num_branches=4', 'num_branches=4 is less than the 17 ODBB blocks'),
        ('num_branches=400', 'is more than the'),
        ('', 'Give exactly one of num_branches and memory'),
        ("num_branches=40, strategy='all'", "Unknown strategy 'all'"),
        ('num_branches=40, epochs=3', 'epochs'),
    ],
)
def test_a_search_that_would_be_refused_is_named(write, hook, said):
    hooks = f"custom_hooks = [dict(type='mmpretrain.RepNASHook', {hook})]\n"
    text = describe(write(hooks + RESNET.format(conv_cfg=CONV_CFG)))
    assert said in text.partition('does not fit')[2]


def test_a_neck_of_other_widths_is_named_before_a_convolution_fails(write):
    detector = DETECTOR.partition('    backbone=')
    backbone = "    backbone=dict(type='mmpretrain.ODBBBackbone', arch='A0', base_channels=8, out_indices=(1, 2, 3)),\n"
    text = describe(write(detector[0] + backbone + detector[2].partition('\n')[2], 'mmdet'))
    assert 'neck: in_channels=[8, 16, 32], and the backbone has out_channels=[12, 24, 160].' in text


def test_pure_python_configs_are_described(write):
    text = """
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead, ResNet
from repnas_mm.engine import CheckFiniteHook, ExactResumeHook, FuseHook, RepNASHook
from repnas_mm.models import ODBBConv2d

model = dict(
    type=ImageClassifier,
    backbone=dict(type=ResNet, depth=18, stem_channels=4, base_channels=4, conv_cfg=dict(type=ODBBConv2d)),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=2, in_channels=32),
)
find_unused_parameters = True
hooks = [dict(type=FuseHook), dict(type=ExactResumeHook), dict(type=CheckFiniteHook)]
custom_hooks = [dict(type=RepNASHook, num_branches=40), *hooks]
"""
    found = describe(write(text))
    assert '17 of 20 convolutions are blocks' in found and 'lacks' not in found


# ---------------------------------------------------------------- bad input

VIT = "model = dict(type='ImageClassifier', backbone=dict(type='VisionTransformer', arch='deit-tiny', img_size=32))"
BAD = {
    'missing base': ("_base_ = './gone.py'", 'mmpretrain', 'gone.py'),
    'base of a package': ("_base_ = 'mmtrack::a/b.py'", 'mmpretrain', 'not installed'),
    'package': (VIT, 'no_such_package', 'needs the package no_such_package, which is not installed'),
    'syntax': ('model = dict(', 'mmpretrain', 'cannot be read'),
    'no model': ('a = 1', 'mmpretrain', 'has no model'),
    'unknown type': ("model = dict(type='NoSuchNet')", 'mmpretrain', 'model cannot be built'),
    'nothing eligible': (
        VIT,
        'mmpretrain',
        'has no convolution that can be a block (2-D, K x K, K odd, at least 3), only: 1 even',
    ),
}


@pytest.mark.parametrize(('text', 'scope', 'said'), BAD.values(), ids=BAD)
def test_a_bad_config_is_one_sentence(write, text, scope, said):
    with pytest.raises(SystemExit) as error:
        main(['describe', write(text, scope)])
    message = str(error.value)
    assert said in message and message.endswith('.') and '\n' not in message


def test_no_package_is_installed_by_asking(monkeypatch):
    monkeypatch.setattr(subprocess, 'Popen', lambda *args, **_: pytest.fail(f'ran {args}'))
    with pytest.raises(SystemExit, match='needs the package mmtrack, which is not installed'):
        main(['describe', 'mmtrack::a/b.py'])


def test_the_command_prints_it_and_lists_every_convolution(write, capsys):
    main(['describe', write(RESNET.format(conv_cfg='')), '--all', '--cfg-options', 'model.backbone.depth=34'])
    text = capsys.readouterr().out
    assert '0 of 36 convolutions' in text and rows(text)['backbone.layer1.0.conv1'] == ['eligible']
