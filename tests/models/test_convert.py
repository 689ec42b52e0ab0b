"""Any backbone's K x K convolutions as blocks: its class, its checkpoint, its outputs and, fused, its keys stay."""

import copy
from itertools import chain

import pytest
import torch
from blocks import relative_error
from mmcv.cnn.bricks import Conv2d, Conv2dAdaptivePadding
from mmdet.structures import DetDataSample
from mmengine.hub import get_config
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from mmengine.structures import InstanceData
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repnas_mm.engine.fusing import fuse_checked
from repnas_mm.models import ODBBBackbone, ODBBConv2d
from repnas_mm.models.convert import to_odbb
from repnas_mm.search import Genotype, find_blocks, find_candidates


def stir(model, seed=0):
    """Random norms that keep signals alive through many layers; float64, eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            for tensor, low, high in (
                (norm.weight, 0.5, 1.5),
                (norm.running_var, 0.5, 1.5),
                (norm.bias, -0.5, 0.5),
                (norm.running_mean, -0.5, 0.5),
            ):
                tensor.data.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    model.double().eval()  # returns None in some stock backbones
    return model


def outputs(model):
    x = torch.randn(1, 3, 33, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = model(x)
    return [out] if isinstance(out, torch.Tensor) else list(out)


def assert_same_outputs(model, expected, tolerance=1e-10):
    for got, level in zip(outputs(model), expected, strict=True):
        assert level.std() > 1e-3 * level.abs().max()  # an image, not a constant
        assert relative_error(got, level) <= tolerance


def is_one_sentence(error):
    text = str(error.value)
    return text[-1] == '.' and '\n' not in text


# ---------------------------------------------------------------- small nets


def conv(*args, **kwargs):
    return nn.Conv2d(3, 3, *args, **kwargs)


def test_every_eligible_convolution_becomes_a_block_with_its_arguments():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 5, 2, (1, 2), groups=3, bias=False),
        nn.Sequential(Conv2d(6, 6, 3), Conv2dAdaptivePadding(6, 6, 3, 2)),
    )
    blocks = find_blocks(to_odbb(model))
    assert list(blocks) == ['0', '1.0', '1.1']
    first, second, third = blocks.values()
    arguments = ('in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'groups', 'with_bias')
    assert [getattr(first, name) for name in arguments] == [3, 6, 5, 2, (1, 2), 3, False]
    assert [getattr(second, name) for name in arguments] == [6, 6, 3, 1, (0, 0), 1, True]
    assert third.adaptive_padding and not second.adaptive_padding


class OwnConv(nn.Conv2d):
    """Another class of convolution, which may compute anything."""


@pytest.mark.parametrize(
    'left',
    [
        conv(1),
        conv(2),
        conv((3, 1)),
        conv(3, dilation=(1, 2)),
        conv(3, stride=(1, 2)),
        conv(3, padding='same'),
        conv(3, padding=1, padding_mode='circular'),
        OwnConv(3, 3, 3),
        nn.ConvTranspose2d(3, 3, 3),
        nn.Conv1d(3, 3, 3),
        nn.Conv3d(3, 3, 3),
    ],
    ids=str,
)
def test_everything_else_is_left_as_it_is(left):
    model = to_odbb(nn.ModuleList([left, conv(3)]))
    assert model[0] is left and list(find_blocks(model)) == ['1']


def test_the_offsets_of_deformable_convolutions_are_left_as_they_are():
    ops = pytest.importorskip('mmcv.ops')
    deformable = ops.ModulatedDeformConv2dPack(3, 3, 3, padding=1)
    model = nn.Sequential(deformable, conv(3))
    model.spatial_conv_offset = conv(3)  # as in mmdet's DyHead
    assert list(find_blocks(to_odbb(model))) == ['1']
    deformable.init_weights()
    assert not deformable.conv_offset.weight.any()


def test_a_model_without_an_eligible_convolution_is_one_sentence():
    with pytest.raises(ValueError, match='Sequential has no eligible convolution') as error:
        to_odbb(nn.Sequential(conv(1), nn.ReLU()))
    assert is_one_sentence(error)


def test_options_reach_every_block():
    model = to_odbb(nn.Sequential(conv(3), conv(5)), genotype='acb', share_weights=True, with_cp=True)
    for block in find_blocks(model).values():
        assert block.active_branches == ('kxk', '1xk', 'kx1') and block.share_weights and block.with_cp


def test_frozen_convolutions_become_frozen_blocks_in_the_same_mode():
    frozen, trained = conv(3).eval().requires_grad_(False), conv(3)
    blocks = find_blocks(to_odbb(nn.Sequential(frozen, trained)))
    assert [block.searchable for block in blocks.values()] == [False, True]
    assert [block.training for block in blocks.values()] == [False, True]
    assert [block.branches['kxk'].norm.training for block in blocks.values()] == [False, True]


def test_deployed_it_is_the_same_net_of_ordinary_convolutions_that_may_get_biases():
    stock = nn.Sequential(conv(3, bias=False), nn.ReLU(), conv(3))
    model = to_odbb(copy.deepcopy(stock), deploy=True)
    assert str(model) == str(stock) and not find_blocks(model)
    state = {**stock.state_dict(), '0.bias': torch.randn(3)}
    model.load_state_dict(state)
    assert torch.equal(model[0].bias, state['0.bias'])


# ---------------------------------------------------------------- stock backbones

BACKBONES = dict(
    DenseNet=dict(
        type='mmpretrain.DenseNet', arch=dict(growth_rate=4, depths=[2, 2], init_channels=8), out_indices=(0, 1)
    ),
    MobileNetV2=dict(type='mmpretrain.MobileNetV2', widen_factor=0.25, out_indices=(1, 3, 7)),
    EfficientNet=dict(type='mmpretrain.EfficientNet', arch='b0', out_indices=(2, 4, 6)),
    # as in FCN-R50-D8
    ResNetD8=dict(
        type='mmpretrain.ResNetV1c',
        depth=50,
        stem_channels=8,
        base_channels=8,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        out_indices=(0, 1, 2, 3),
    ),
    VGG=dict(type='mmpretrain.VGG', depth=11, num_stages=3, dilations=(1, 1, 1), out_indices=(0, 1, 2)),
)
BACKBONES['VGG_BN'] = dict(BACKBONES['VGG'], norm_cfg=dict(type='BN'))

BLOCKS = dict(
    # the 7x7 of the stem, and the last of two convolutions in every layer
    DenseNet=['stem.0', *(f'stages.{s}.block.{b}.conv2' for s in (0, 1) for b in (0, 1))],
    # the stem and the depth-wise one of every inverted residual
    MobileNetV2=['conv1.conv', 'layer1.0.conv.0.conv']
    + [f'layer{i}.{j}.conv.1.conv' for i, n in enumerate((2, 3, 4, 3, 3, 1), 2) for j in range(n)],
    EfficientNet=['layers.0.conv']
    + [f'layers.{i}.{j}.depthwise_conv.conv' for i, n in enumerate((1, 2, 2, 6, 5), 1) for j in range(n)],
    # every 3x3
    ResNetD8=[f'stem.{i}.conv' for i in range(3)]
    + [f'layer{i}.{j}.conv2' for i, n in enumerate((3, 4, 6, 3), 1) for j in range(n)],
    VGG_BN=[f'features.{i}.conv' for i in (0, 2, 4, 5)],
    VGG=[f'features.{i}.conv' for i in (0, 2, 4, 5)],
)
#: what has a bias when fused and not in the stock net: no norm follows a DenseNet layer, only the next layers' do
NEW_BIASES = dict(DenseNet=BLOCKS['DenseNet'][1:])

backbones = pytest.mark.parametrize('name', BACKBONES)


@pytest.fixture(scope='module')
def stock():
    """Builds each stock backbone once; not to be changed."""
    built = {}

    def get(name):
        if name not in built:
            torch.manual_seed(0)
            built[name] = stir(MODELS.build(BACKBONES[name]))
        return built[name]

    return get


def double_eval(model):
    model.double().eval()
    return model


@backbones
def test_a_stock_backbone_keeps_its_class_its_checkpoint_and_what_it_computes(name, stock):
    model = double_eval(ODBBBackbone(base=BACKBONES[name]))
    assert type(model) is type(stock(name))
    assert list(find_blocks(model)) == BLOCKS[name]
    missing, unexpected = model.load_state_dict(stock(name).state_dict(), strict=False)
    assert not missing and not unexpected
    assert_same_outputs(model, outputs(stock(name)), 1e-12)


@backbones
def test_fused_it_has_the_stock_keys_but_for_biases_that_no_norm_can_take(name, stock):
    model = stir(to_odbb(copy.deepcopy(stock(name))), seed=2)
    expected = outputs(model)
    fused = fuse_checked(model, outputs)
    assert fused.difference <= 1e-10 and fused.new_biases == NEW_BIASES.get(name, [])
    own, theirs = model.state_dict(), stock(name).state_dict()
    assert own.keys() - theirs.keys() == {f'{block}.bias' for block in fused.new_biases}
    assert not theirs.keys() - own.keys()
    assert_same_outputs(model, expected)

    plain = double_eval(ODBBBackbone(base=BACKBONES[name], deploy=True))  # takes the new biases too
    plain.load_state_dict(own)
    assert str(plain) == str(stock(name)) or fused.new_biases
    assert_same_outputs(plain, expected)
    if not fused.new_biases:
        untouched = copy.deepcopy(stock(name))
        untouched.load_state_dict(own)
        assert_same_outputs(untouched, expected)


def test_a_conv_cfg_makes_blocks_of_the_dilated_convolutions_too():
    convs = {n: m for n, m in MODELS.build(BACKBONES['ResNetD8']).named_modules() if isinstance(m, nn.Conv2d)}
    blocks = find_blocks(MODELS.build(BACKBONES['ResNetD8'] | dict(conv_cfg=dict(type='ODBBConv2d'))))
    assert list(blocks) == [name for name, conv in convs.items() if conv.kernel_size != (1, 1)]
    assert [blocks[name].dilation for name in blocks] == [convs[name].dilation for name in blocks]
    assert sum(block.dilation != (1, 1) for block in blocks.values()) == 9


# ---------------------------------------------------------------- ODBBBackbone(base=...)

BASE = BACKBONES['DenseNet']


def test_with_a_base_a_preset_builds_its_branches_where_they_exist():
    blocks = find_blocks(ODBBBackbone(base=BASE, genotype='repvgg'))
    assert [block.active_branches for block in blocks.values()] == [('1x1', 'kxk')] * 5
    assert all(block.alpha is None and not block.share_weights for block in blocks.values())


def test_with_a_base_a_random_preset_has_its_number_of_branches_from_its_seed():
    drawn = [
        Genotype.from_model(ODBBBackbone(base=BASE, genotype=dict(preset='random', num_branches=12, seed=seed)))
        for seed in (0, 0, 1)
    ]
    assert [genotype.num_branches for genotype in drawn] == [12] * 3
    assert drawn[0] == drawn[1] != drawn[2]


def test_with_a_base_the_genotype_of_a_whole_model_builds_its_subnet(tmp_path):
    drawn = Genotype.from_preset('random', ODBBBackbone(base=BASE), num_branches=12, seed=0)
    whole = Genotype({f'backbone.{name}': branches for name, branches in drawn.items()}, share_weights=True)
    whole.dump(tmp_path / 'genotype.json')
    model = ODBBBackbone(base=BASE, genotype=str(tmp_path / 'genotype.json'))
    assert {name: tuple(block.branches) for name, block in find_blocks(model).items()} == dict(drawn)
    assert all(block.share_weights for block in find_blocks(model).values())


def test_with_a_base_the_options_reach_every_block():
    arguments = dict(share_weights=True, with_cp=True, norm_cfg=dict(type='BN', eps=1e-3))
    for block in find_blocks(ODBBBackbone(base=BASE, **arguments)).values():
        assert block.share_weights and block.with_cp and block.branches['kxk'].norm.eps == 1e-3
    assert {b.share_weights for b in find_blocks(ODBBBackbone(base=BASE)).values()} == {False}
    told = ODBBBackbone(base=BASE, genotype='dbb', share_weights=True)
    assert {b.share_weights for b in find_blocks(told).values()} == {True}


def test_with_a_base_a_subnet_takes_its_part_of_a_search():
    searched = stir(ODBBBackbone(base=BASE))
    genotype = Genotype.from_preset('random', searched, num_branches=12, seed=0)
    subnet = double_eval(ODBBBackbone(base=BASE, genotype=genotype))
    _load_checkpoint_to_model(subnet, searched.state_dict())
    for name, block in find_blocks(searched).items():
        block.set_active([branch in genotype[name] for branch in block.candidates])
    assert_same_outputs(subnet, outputs(searched), 1e-12)


def test_it_is_a_config_too():
    cfg = dict(type='mmpretrain.ODBBBackbone', base=BASE, deploy=True)
    assert type(MODELS.build(cfg)) is type(MODELS.build(BASE))


@pytest.mark.parametrize('extra', ['arch', 'out_indices', 'frozen_stages', 'init_cfg', 'kernel_size', 'norm_eval'])
def test_with_a_base_the_backbones_own_arguments_are_one_sentence(extra):
    with pytest.raises(ValueError, match=f"takes '{extra}' or base, not both; put what the backbone") as error:
        ODBBBackbone(base=BASE, **{extra: 'A0'})
    assert is_one_sentence(error)
    with pytest.raises(ValueError, match="takes 'arch' or base, not both"):
        ODBBBackbone('A0', base=BASE)


def test_necks_and_heads_have_a_base_too():
    """mmdet gives its heads train_cfg and test_cfg, and a RPN num_classes, beside the config that is theirs."""
    detector = get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py').model
    detector.backbone = dict(type='mmdet.ResNet', depth=18, base_channels=8)
    detector.neck.update(in_channels=[8, 16, 32, 64], out_channels=8)
    detector.rpn_head.update(in_channels=8, feat_channels=8)
    detector.roi_head.bbox_roi_extractor.out_channels = 8
    detector.roi_head.bbox_head.update(type='ConvFCBBoxHead', num_shared_convs=1, in_channels=8, conv_out_channels=8)
    for parent, part in ((detector, 'neck'), (detector, 'rpn_head'), (detector.roi_head, 'bbox_head')):
        parent[part] = dict(type='mmpretrain.ODBBBackbone', base=parent[part])
    with MODELS.switch_scope_and_registry('mmdet') as registry:
        model = registry.build(detector)
    names = [*(f'neck.fpn_convs.{i}.conv' for i in range(4)), 'rpn_head.rpn_conv']
    assert [*find_blocks(model)] == [*names, 'roi_head.bbox_head.shared_convs.0.conv']
    assert model.rpn_head.num_classes == 1 and model.rpn_head.test_cfg.nms_pre == 1000
    assert sum(map(torch.Tensor.sum, model.loss(torch.randn(1, 3, 128, 128), samples())['loss_rpn_cls'])).isfinite()


class Head(BaseModule):
    """Predictions with a start of their own, as mmdet's heads have them."""

    def __init__(self, override):
        super().__init__(dict(type='Normal', layer='Conv2d', std=0.01, override=override))
        self.feature, self.cls = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)


PRIOR = dict(type='Normal', name='cls', std=0.01, bias_prob=0.01)


@pytest.mark.parametrize('override', [PRIOR, [PRIOR, dict(type='Normal', name='feature', std=1)]], ids=['one', 'list'])
def test_what_an_init_cfg_starts_in_its_own_way_stays_plain_and_starts_so(override):
    rest = ['feature'] if override is PRIOR else ['net']
    model = to_odbb(nn.ModuleDict(dict(head=Head(override), net=nn.Conv2d(3, 3, 3))))
    model['head'].init_weights()
    assert {name.split('.')[-1] for name in find_blocks(model)} == {'net', *rest}
    assert model['head'].cls.bias.mean().item() == pytest.approx(-4.595, abs=1e-3)  # log(0.01 / 0.99)


def samples():
    """One image of 128 pixels with one box."""
    sample = DetDataSample(metainfo=dict(img_shape=(128, 128), batch_input_shape=(128, 128), pad_shape=(128, 128)))
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([1]))
    return [sample]


def test_what_no_base_takes_is_one_sentence():
    with pytest.raises(ValueError, match=r'builds no backbone: .*archh'):
        ODBBBackbone(base=BASE, archh='A0')


def test_no_base_is_as_none_at_all():
    arch = dict(num_blocks=[1], width_factor=[1])
    assert find_candidates(ODBBBackbone(arch=arch, base=None)) == find_candidates(ODBBBackbone(arch=arch))


def test_neither_arch_nor_base_is_an_error():
    with pytest.raises((TypeError, ValueError), match='arch'):
        ODBBBackbone(genotype='repvgg')


@pytest.mark.parametrize(
    'genotype, what',
    [('no_such_preset', 'neither a file nor a preset'), (Genotype({'stem.0': ('kxk',)}), 'has no block')],
)
def test_with_a_base_a_genotype_of_another_network_is_refused(genotype, what):
    with pytest.raises(ValueError, match=what):
        ODBBBackbone(base=BASE, genotype=genotype)


# ---------------------------------------------------------------- convolutions under several names


@pytest.fixture
def log(monkeypatch):
    """What is logged while converting."""
    lines = []
    monkeypatch.setattr('repnas_mm.search.block.print_log', lambda line, *_: lines.append(line))
    return lines


class TwoLevels(nn.Module):
    """One convolution at two levels, with a norm of its own at each, and one used once."""

    def __init__(self, make):
        super().__init__()
        shared = make(3, 3, 3, padding=1, bias=False)
        self.levels = nn.ModuleList(nn.Sequential(shared, nn.BatchNorm2d(3)) for _ in range(2))
        self.last = make(3, 3, 3)

    def forward(self, x):
        return [self.last(level(x)) for level in self.levels]


def test_a_shared_convolution_stays_plain(log):
    model = TwoLevels(nn.Conv2d)
    shared = model.levels[0][0]
    to_odbb(model)
    assert list(find_blocks(model)) == ['last']
    assert model.levels[0][0] is model.levels[1][0] is shared and type(shared) is nn.Conv2d
    assert log == [
        "Convolution 'levels.0.0' is used under 2 names (such as 'levels.1.0'), whose statistics differ; it stays "
        'plain.'
    ]


def test_a_convolution_in_a_shared_parent_stays_plain(log):
    tower = nn.Sequential(conv(3))
    model = to_odbb(nn.ModuleList([tower, tower, conv(3)]))
    assert list(find_blocks(model)) == ['2'] and type(tower[0]) is nn.Conv2d


def test_rtmdets_head_keeps_its_shared_convolutions_plain(log):
    heads = pytest.importorskip('mmdet.models.dense_heads')
    arguments = dict(
        num_classes=2,
        in_channels=8,
        feat_channels=8,
        stacked_convs=2,
        anchor_generator=dict(type='mmdet.MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='mmdet.DistancePointBBoxCoder'),
        loss_cls=dict(type='mmdet.QualityFocalLoss', use_sigmoid=True),
        loss_bbox=dict(type='mmdet.GIoULoss'),
        with_objectness=False,
        share_conv=True,
    )
    stock = heads.RTMDetSepBNHead(**arguments)
    head = heads.RTMDetSepBNHead(**arguments, conv_cfg=dict(type='ODBBConv2d'))
    assert len({m for m in head.modules() if isinstance(m, ODBBConv2d)}) == 4  # two towers of two
    parameters = {id(p) for p in head.parameters()}
    assert not find_blocks(head) and len(log) == 4
    assert {id(p) for p in head.parameters()} <= parameters
    assert head.cls_convs[0][1].conv is head.cls_convs[2][1].conv
    head.load_state_dict(stock.state_dict())
    assert head.state_dict().keys() == stock.state_dict().keys()
    levels = [torch.randn(1, 8, size, size) for size in (8, 4, 2)]
    head.eval(), stock.eval()
    for got, expected in zip(chain(*head(levels)), chain(*stock(levels)), strict=True):
        assert torch.equal(got, expected)
