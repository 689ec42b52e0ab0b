"""The backbone: RepVGG's layers exactly, VGG-16's for CIFAR, upstream's arguments, and stock tools that fuse it."""

import copy
import re
from pathlib import Path

import mmpretrain
import pytest
import torch
import torchvision
from blocks import randomize, relative_error
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models.backbones import RepVGG
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.models.classifiers import ImageClassifier
from scripts import load_script
from timm.utils import reparameterize_model
from torch import nn

from repnas_mm.models import ODBBBackbone, ODBBlock
from repnas_mm.search import Genotype, find_blocks, find_candidates

REPVGG = [name for name in ODBBBackbone.arch_settings if name != 'VGG16']
#: 4 stages of 1, 2, 1, 1 blocks and 8 to 16 channels
TINY = dict(num_blocks=[1, 2, 1, 1], width_factor=[1, 0.5, 0.25, 0.25], group_layer_map={2: 2})


def tiny(**kwargs):
    return ODBBBackbone(**dict(arch=TINY, base_channels=8) | kwargs)


def on_meta(cls, *args, **kwargs):
    """Built without memory, for its shapes."""
    with torch.device('meta'):
        return cls(*args, **kwargs)


def shapes(module, rename=('', '')):
    return {name.replace(*rename): tuple(p.shape) for name, p in module.state_dict().items()}


def search_a_little(model, seed=0):
    """Drop about half of the branches of every block, as a search does, and fill everything with random numbers."""
    generator = torch.Generator().manual_seed(seed)
    for block in find_blocks(model).values():
        mask = torch.rand(len(block.candidates), generator=generator) < 0.5
        mask[1] |= not mask.any()
        block.set_active(mask)
    return randomize(model, seed)


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize(
    'arch, parameters',
    [
        ('A0', 8_309_384),
        ('A1', 12_789_864),
        ('A2', 25_499_944),
        ('B1', 51_829_480),
        ('B2', 80_315_112),
        ('B3', 110_960_872),
    ],
)
def test_fused_parameters_with_a_1000_class_head(arch, parameters):
    backbone = on_meta(ODBBBackbone, arch, deploy=True)
    head = on_meta(nn.Linear, backbone(torch.empty(1, 3, 32, 32, device='meta'))[0].shape[1], 1000)
    assert sum(p.numel() for p in [*backbone.parameters(), *head.parameters()]) == parameters


@pytest.mark.parametrize('arch', REPVGG)
def test_fused_layers_are_those_of_stock_repvgg(arch):
    ours = on_meta(ODBBBackbone, arch, deploy=True)
    stock = on_meta(RepVGG, arch, deploy=True)
    assert shapes(ours, ('.reparam.', '.branch_reparam.')) == shapes(stock)
    for (name, conv), (_, theirs) in zip(convolutions(ours), convolutions(stock)):
        for attribute in ('stride', 'padding', 'dilation', 'groups'):
            assert getattr(conv, attribute) == getattr(theirs, attribute), (name, attribute)


def convolutions(module):
    return [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Conv2d)]


def test_every_repvgg_of_mmpretrain_but_the_one_with_other_blocks_has_its_odbb():
    assert set(REPVGG) == set(RepVGG.arch_settings) - {'D2se'}


@pytest.mark.parametrize(
    'arguments',
    [
        dict(arch='A0'),
        dict(arch='B1g4', base_channels=16),
        dict(arch='A0', base_channels=8, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), add_ppf=True),
        dict(arch='yolox-pai-small', base_channels=8, dilations=[1, 1, 1, 2], in_channels=3, conv_cfg=None),
        dict(arch=dict(TINY, se_cfg=None, stem_channels=4), base_channels=8, act_cfg=dict(type='SiLU')),
    ],
    ids=str,
)
def test_stock_repvgg_computes_the_same_from_the_renamed_fused_state(arguments):
    arguments = arguments | dict(out_indices=(0, 1, 2, 3))
    ours = search_a_little(ODBBBackbone(**arguments)).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = ours(x)
    assert [y.shape[1] for y in expected] == ours.out_channels
    ours.switch_to_deploy()
    stock = RepVGG(**arguments, deploy=True).double()
    stock.eval()  # returns None there
    stock.load_state_dict({k.replace('.reparam.', '.branch_reparam.'): v for k, v in ours.state_dict().items()})
    for got, level in zip(stock(x), expected):
        assert relative_error(got, level) <= 1e-10


def test_vgg16_is_torchvisions_vgg16_without_its_classifier():
    ours, theirs = on_meta(ODBBBackbone, 'VGG16', deploy=True), on_meta(torchvision.models.vgg16).features
    assert list(shapes(ours).values()) == list(shapes(theirs).values())
    poolings = []
    ours.pool.register_forward_hook(lambda module, args, out: poolings.append(tuple(out.shape[2:])))
    (out,) = ours(torch.empty(1, 3, 32, 32, device='meta'))
    assert len(find_blocks(ours)) == 13
    assert poolings == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    assert out.shape == (1, 512, 1, 1)


@pytest.mark.parametrize('arch, blocks, branches', [('A0', 22, 149), ('VGG16', 13, 87)])
def test_number_of_candidates(arch, blocks, branches):
    found = find_candidates(on_meta(ODBBBackbone, arch))
    assert len(found) == blocks
    assert sum(map(len, found.values())) == branches


def test_the_widths_in_the_docs_are_those_of_the_stages():
    page = (Path(__file__).resolve().parents[2] / 'docs/use_in_your_project.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| ([\w, -]+) \| (\d+ \| .*)\|$', page, re.MULTILINE)
    documented = {arch: [*map(int, re.findall(r'\d+', row))] for archs, row in rows for arch in archs.split(', ')}
    assert documented.keys() == ODBBBackbone.arch_settings.keys()
    for arch, widths in documented.items():
        backbone = on_meta(ODBBBackbone, arch, out_indices=range(len(widths)), deploy=True)
        assert backbone.out_channels == widths, arch


def test_stem_of_a0_has_48_channels():
    assert on_meta(ODBBBackbone, 'A0').stem.out_channels == 48


# ---------------------------------------------------------------- fusing

FULL_WIDTH = ('A0', 'B0')


@pytest.mark.parametrize('arch', ODBBBackbone.arch_settings)
def test_every_arch_fuses_exactly(arch):
    backbone = ODBBBackbone(arch, base_channels=16 if 'g' in arch else 8, out_indices=(0, 1, 2, 3))
    check_fusing(search_a_little(backbone).double(), 1e-10)


@pytest.mark.parametrize('arch', FULL_WIDTH)
def test_full_width_fuses_in_float32(arch):
    check_fusing(search_a_little(ODBBBackbone(arch)), 1e-4)


def check_fusing(backbone, tolerance):
    backbone.eval()
    x = torch.randn(1, 3, 32, 32, dtype=next(backbone.parameters()).dtype)
    with torch.no_grad():
        expected = backbone(x)
        assert not backbone.deploy
        backbone.switch_to_deploy()
        assert backbone.deploy
        for got, level in zip(backbone(x), expected):
            assert relative_error(got, level) <= tolerance


CLASSIFIER = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='ODBBBackbone', arch=TINY, base_channels=8),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=5, in_channels=16),
)


def build_classifier(**backbone):
    return MODELS.build(CLASSIFIER | dict(backbone=CLASSIFIER['backbone'] | backbone)).eval()


def test_mmpretrains_stock_converter_converts_a_searched_classifier(tmp_path):
    path = Path(mmpretrain.__file__).parent / '.mim/tools/model_converters/reparameterize_model.py'
    stock = load_script(path)

    searched = search_a_little(build_classifier())
    model = build_classifier()
    model.load_state_dict(searched.state_dict())  # what init_model does; no hook runs
    assert isinstance(model, ImageClassifier)
    stock.convert_classifier_to_deploy(model, dict(meta={}), tmp_path / 'fused.pth')
    deployed = build_classifier(deploy=True)
    deployed.load_state_dict(torch.load(tmp_path / 'fused.pth')['state_dict'])

    x = torch.randn(2, 3, 64, 64)
    for fused in (model, deployed):
        assert relative_error(fused(x), searched(x)) <= 1e-5


def test_timms_stock_converter_converts_a_searched_classifier():
    searched = search_a_little(build_classifier())
    fused = reparameterize_model(searched)
    x = torch.randn(2, 3, 64, 64)
    assert relative_error(fused(x), searched(x)) <= 1e-5
    assert all(block.deploy for block in find_blocks(fused).values())
    assert not any(block.deploy for block in find_blocks(searched).values())


# ---------------------------------------------------------------- arguments


def test_out_indices_choose_the_stages():
    x = torch.randn(2, 3, 64, 64)
    assert [tuple(y.shape[1:]) for y in tiny(out_indices=(0, 1, 2, 3))(x)] == [
        (8, 16, 16),
        (8, 8, 8),
        (8, 4, 4),
        (16, 2, 2),
    ]
    assert [tuple(y.shape[1:]) for y in tiny(out_indices=[1, 3])(x)] == [(8, 8, 8), (16, 2, 2)]
    assert [tuple(y.shape[1:]) for y in tiny()(x)] == [(16, 2, 2)]


@pytest.mark.parametrize('named, stages', [((-1,), [3]), ((-4, 2), [0, 2]), ([-2, -1, 3], [2, 3])])
def test_stages_count_from_the_end_too(named, stages):
    backbone, every = tiny(out_indices=named).eval(), tiny(out_indices=range(4)).eval()
    every.load_state_dict(backbone.state_dict())
    x = torch.randn(2, 3, 64, 64)
    expected = every(x)
    assert list(map(torch.equal, backbone(x), [expected[i] for i in stages])) == [True] * len(stages)
    assert backbone.out_channels == [expected[i].shape[1] for i in stages]


def test_it_is_a_backbone_of_mmpretrain():
    assert isinstance(tiny(), BaseBackbone)


@pytest.mark.parametrize('arch, strides', [(TINY, (2, 2, 2, 2)), (dict(TINY, strides=[1, 2, 1, 2]), (1, 2, 1, 2))])
def test_strides_and_dilations_are_those_of_the_arch_unless_given(arch, strides):
    def read(name, **given):
        found = [getattr(tiny(arch=arch, **given), f'stage_{i}')[0] for i in range(1, 5)]
        return tuple(getattr(block, name) for block in found)

    assert read('stride') == strides and read('stride', strides=(1, 1, 2, 1)) == (1, 1, 2, 1)
    assert read('dilation') == (1, 1, 1, 1) and read('dilation', dilations=[1, 2, 4, 1]) == (1, 2, 4, 1)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 4])
def test_frozen_stages_have_no_gradient_no_moving_statistics_and_no_search(frozen_stages):
    backbone = tiny(frozen_stages=frozen_stages).train()
    frozen = ['stem', 'stage_1', 'stage_2', 'stage_3', 'stage_4'][: frozen_stages + 1]
    for name, block in find_blocks(backbone).items():
        is_frozen = name.split('.')[0] in frozen
        assert all(p.requires_grad != is_frozen for p in block.parameters()), name
        assert all(m.training != is_frozen for m in block.modules()), name
        assert block.searchable != is_frozen, name


def test_frozen_parameters_and_statistics_stay_as_they_are_in_a_training_step():
    backbone = tiny(frozen_stages=2).train()
    before = copy.deepcopy(backbone.state_dict())
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], 0.1)
    backbone(torch.randn(2, 3, 64, 64))[0].square().sum().backward()
    optimizer.step()
    changed = {key.split('.')[0] for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {'stage_3', 'stage_4'}


def test_norm_eval_keeps_statistics_and_trains_parameters():
    backbone = tiny(norm_eval=True).train()
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))[0].sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in backbone.named_buffers())
    assert backbone.training and backbone.stem.training
    assert backbone.stem.branches['kxk'].norm.weight.grad is not None
    moving = tiny().train()
    moving(torch.randn(2, 3, 64, 64))
    assert moving.stem.branches['kxk'].norm.num_batches_tracked == 1


def test_with_cp_trains_as_without():
    plain, recomputing = randomize(tiny()).double(), tiny(with_cp=True).double()
    recomputing.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for backbone in (plain, recomputing):
        backbone.train()(x)[0].square().mean().backward()
    for (name, p), q in zip(recomputing.named_parameters(), plain.parameters()):
        assert (p.grad is None) == (q.grad is None), name
        if q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-10)
    assert all(map(torch.equal, recomputing.buffers(), plain.buffers()))


@pytest.mark.parametrize('with_cp', [True, False])
def test_block_arguments_reach_every_block(with_cp):
    backbone = tiny(
        kernel_size=5, with_cp=with_cp, share_weights=False, norm_cfg=dict(type='BN', eps=1e-3), act_cfg=None
    )
    for block in find_blocks(backbone).values():
        assert block.kernel_size == 5
        assert block.with_cp == with_cp
        assert not block.share_weights
        assert block.branches['kxk'].norm.eps == 1e-3
        assert isinstance(block.act, nn.Identity)


def test_kernel_size_5_keeps_the_shape_and_fuses():
    backbone = search_a_little(tiny(kernel_size=5)).double()
    assert backbone(torch.randn(2, 3, 64, 64, dtype=torch.float64))[0].shape == (2, 16, 2, 2)
    check_fusing(backbone, 1e-10)
    assert backbone.stem.reparam.weight.shape == (8, 3, 5, 5)


def test_in_channels_is_that_of_the_image():
    assert tiny(in_channels=1)(torch.randn(2, 1, 64, 64))[0].shape == (2, 16, 2, 2)


def test_an_arch_dict_says_everything_about_the_layers():
    backbone = tiny(arch=dict(TINY, stem_channels=4, strides=[1, 2, 1, 2]))
    blocks = find_blocks(backbone)
    assert list(blocks) == ['stem', 'stage_1.0', 'stage_2.0', 'stage_2.1', 'stage_3.0', 'stage_4.0']
    assert [b.in_channels for b in blocks.values()] == [3, 4, 8, 8, 8, 8]
    assert [b.out_channels for b in blocks.values()] == [4, 8, 8, 8, 8, 16]
    assert [b.stride for b in blocks.values()] == [2, 1, 2, 1, 1, 2]
    assert [b.groups for b in blocks.values()] == [1, 1, 2, 1, 1, 1]


@pytest.mark.parametrize(
    'arguments, kind, what',
    [
        (dict(arch='A9'), ValueError, "Unknown arch 'A9'; known are A0, "),
        (dict(arch=3), TypeError, 'must be a name or a dict, got 3'),
        (dict(arch=dict(TINY, depth=3)), ValueError, "unknown key 'depth'; known are group_layer_map"),
        (dict(arch=dict(num_blocks=[1])), ValueError, "has no 'width_factor'"),
        (dict(arch=dict(width_factor=[1])), ValueError, "has no 'num_blocks'"),
        (dict(arch=dict(num_blocks=[1, 1], width_factor=[1])), ValueError, 'must have one length'),
        (dict(arch=dict(num_blocks=[1], width_factor=[1], strides=[1, 2])), ValueError, 'must have one length'),
        (dict(out_indices=(0, 4)), ValueError, 'must name stages of this arch'),
        (dict(out_indices=(-5,)), ValueError, 'must name stages of this arch, from 0 to 3 or from -4 to -1'),
        (dict(out_indices=()), ValueError, 'must name stages of this arch'),
        (dict(strides=(1, 1, 1)), ValueError, 'must have one length'),
        (dict(arch='A0', dilations=(1, 1, 2)), ValueError, 'must have one length'),
        (
            dict(dilations=(1, 1, 2, 0)),
            ValueError,
            r'dilations must be a list of positive integers, got \(1, 1, 2, 0\)',
        ),
        (dict(strides=2), ValueError, 'strides must be a list of positive integers, got 2'),
        (dict(arch=dict(TINY, se_cfg=dict(ratio=16))), ValueError, 'se_cfg of arch must be None, got .*ratio'),
        (dict(conv_cfg=dict(type='Conv2d')), ValueError, "conv_cfg of ODBBBackbone must be None, got .*'Conv2d'"),
        (dict(add_ppf='yes'), TypeError, 'add_ppf of ODBBBackbone must be True or False'),
        (dict(frozen_stages=5), ValueError, 'frozen_stages=5 must be from -1 to 4'),
        (dict(kernel_size=4), ValueError, 'must be an odd integer'),
        (dict(norm_cfg=dict(type='GN', num_groups=2)), ValueError, 'cannot be fused'),
    ],
)
def test_bad_arguments_are_one_sentence(arguments, kind, what):
    with pytest.raises(kind, match=what) as error:
        tiny(**arguments)
    assert str(error.value).endswith('.') and '\n' not in str(error.value)


# ---------------------------------------------------------------- genotype


def test_a_presets_name_builds_its_branches_where_they_exist():
    backbone = tiny(genotype='repvgg')
    kept = {name: block.active_branches for name, block in find_blocks(backbone).items()}
    assert kept['stem'] == ('1x1', 'kxk')
    assert kept['stage_2.1'] == ('1x1', 'kxk', 'skip')
    assert all(block.alpha is None for block in find_blocks(backbone).values())


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'detector.backbone.'])
@pytest.mark.parametrize('form', ['genotype', 'dict', 'path'])
def test_a_genotype_of_the_backbone_or_of_a_whole_model_builds_its_subnet(form, prefix, tmp_path):
    drawn = Genotype.from_preset('random', tiny(), num_branches=17, seed=0)
    genotype = Genotype({prefix + name: branches for name, branches in drawn.items()}, share_weights=True)
    genotype.dump(tmp_path / 'genotype.json')
    given = dict(genotype=genotype, dict=genotype.to_dict(), path=str(tmp_path / 'genotype.json'))[form]
    backbone = tiny(genotype=given)
    assert {name: tuple(block.branches) for name, block in find_blocks(backbone).items()} == dict(drawn)


def test_a_random_preset_is_a_dict_with_its_number_and_seed():
    backbone = tiny(genotype=dict(preset='random', num_branches=17, seed=3))
    assert sum(len(block.branches) for block in find_blocks(backbone).values()) == 17


@pytest.mark.parametrize('own', [True, False])
def test_weights_are_shared_as_the_genotype_says_unless_told_otherwise(own):
    genotype = Genotype(Genotype.from_preset('full', tiny()), share_weights=own)
    assert {b.share_weights for b in find_blocks(tiny(genotype=genotype)).values()} == {own}
    told = tiny(genotype=genotype, share_weights=not own)
    assert {b.share_weights for b in find_blocks(told).values()} == {not own}


@pytest.mark.parametrize('genotype', [None, 'dbb'])
def test_weights_are_shared_only_if_told(genotype):
    assert {b.share_weights for b in find_blocks(tiny(genotype=genotype)).values()} == {False}
    assert {b.share_weights for b in find_blocks(tiny(genotype=genotype, share_weights=True)).values()} == {True}


def test_a_fused_network_needs_no_genotype_and_accepts_any():
    without = shapes(tiny(deploy=True))
    assert shapes(tiny(deploy=True, genotype='acb')) == without
    assert shapes(tiny(deploy=True, genotype='not_there_any_more.json', share_weights=False)) == without


def test_a_subnet_takes_the_weights_of_the_supernet_it_was_found_in():
    searched = search_a_little(tiny()).eval()
    subnet = tiny(genotype=Genotype.from_model(searched)).eval()
    assert subnet.load_state_dict(searched.state_dict(), strict=False).missing_keys == []
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(subnet(x)[0], searched(x)[0])


@pytest.mark.parametrize(
    'genotype, what',
    [
        ('no_such_preset', 'neither a file nor a preset'),
        (Genotype({'stem': ('kxk',)}), "has no block 'stage_1.0'"),
        (Genotype({name: ('skip',) for name in find_candidates(tiny())}), "keeps 'skip', which cannot exist"),
    ],
)
def test_a_genotype_of_another_network_is_refused(genotype, what):
    with pytest.raises(ValueError, match=what):
        tiny(genotype=genotype)


# ---------------------------------------------------------------- registries


@pytest.mark.parametrize('name', ['ODBBBackbone', 'mmpretrain.ODBBBackbone'])
@pytest.mark.parametrize('scope', [None, 'mmpretrain', 'mmdet'])
def test_configs_find_it_in_the_root_registry_from_any_scope(name, scope):
    cfg = dict(type=name, arch=TINY, base_channels=8)
    if scope is None:
        assert isinstance(MODELS.build(cfg), ODBBBackbone)
    else:
        pytest.importorskip(scope)
        with DefaultScope.overwrite_default_scope(scope):
            assert isinstance(MODELS.build(cfg), ODBBBackbone)


@pytest.mark.parametrize('name', ['ODBBBackbone', 'mmpretrain.ODBBBackbone'])
@pytest.mark.parametrize('project', ['mmpretrain', 'mmdet'])
def test_configs_find_it_in_each_projects_registry(name, project):
    registry = pytest.importorskip(f'{project}.registry').MODELS
    assert isinstance(registry.build(dict(type=name, arch=TINY, base_channels=8)), ODBBBackbone)


def test_a_block_is_registered_too():
    assert isinstance(MODELS.build(dict(type='ODBBlock', in_channels=4, out_channels=4)), ODBBlock)
