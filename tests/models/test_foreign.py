"""Trained blocks of RepVGG, DBB and ACNet, under their authors' names, become our branches with all they learned."""

import copy
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import timm
import torch
from blocks import make_image, randomize, relative_error
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from mmpretrain.models.backbones import RepVGG
from mmpretrain.models.backbones.repvgg import RepVGGBlock
from torch import nn

from repnas_mm.engine.hooks import SafeLoadHook
from repnas_mm.models import ODBBBackbone, ODBBConv2d, ODBBlock
from repnas_mm.search import find_blocks
from repnas_mm.search.genotype import PRESETS


class PaddedBN(nn.Module):
    """DBB's BNAndPadLayer: pads what the BN makes of zero."""

    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = nn.functional.pad(self.bn(x), [1] * 4)
        border = self.bn.bias - self.bn.running_mean * self.bn.weight / (self.bn.running_var + self.bn.eps).sqrt()
        inside = nn.functional.pad(torch.ones_like(x[:, :1]), [1] * 4)
        return y + (1 - inside) * border.detach().view(1, -1, 1, 1)


class IdentityConv(nn.Conv2d):
    """DBB's IdentityBasedConv1x1."""

    def __init__(self, channels):
        super().__init__(channels, channels, 1, bias=False)

    def forward(self, x):
        return super().forward(x) + x


def conv_bn(*args):
    conv = nn.Conv2d(*args, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(conv.out_channels)))


class DBB(nn.Module):
    """The official Diverse Branch Block, 3×3."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.dbb_origin = conv_bn(channels, out, 3, stride, 1)
        self.dbb_avg = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(channels, out, 1, bias=False),
                bn=PaddedBN(out),
                avg=nn.AvgPool2d(3, stride),
                avgbn=nn.BatchNorm2d(out),
            )
        )
        self.dbb_1x1 = conv_bn(channels, out, 1, stride)
        self.dbb_1x1_kxk = nn.Sequential(
            OrderedDict(
                idconv1=IdentityConv(channels),
                bn1=PaddedBN(channels),
                conv2=nn.Conv2d(channels, out, 3, stride, bias=False),
                bn2=nn.BatchNorm2d(out),
            )
        )

    def forward(self, x):
        return self.dbb_origin(x) + self.dbb_avg(x) + self.dbb_1x1(x) + self.dbb_1x1_kxk(x)


class ACBlock(nn.Module):
    """The official block of ACNet, 3×3."""

    def __init__(self, channels, out, stride):
        super().__init__()
        for name, size, padding in (('square', 3, 1), ('ver', (3, 1), (1, 0)), ('hor', (1, 3), (0, 1))):
            self.add_module(f'{name}_conv', nn.Conv2d(channels, out, size, stride, padding, bias=False))
            self.add_module(f'{name}_bn', nn.BatchNorm2d(out))

    def forward(self, x):
        parts = ('square', 'ver', 'hor')
        return sum(getattr(self, f'{name}_bn')(getattr(self, f'{name}_conv')(x)) for name in parts)


def mmpretrain_block(channels, out, stride):
    block = RepVGGBlock(channels, out, stride)
    block.act = nn.Identity()
    return block


#: Layout -> preset, block, and the names of its authors for mmpretrain's
BLOCKS = dict(
    mmpretrain=('repvgg', mmpretrain_block, {}),
    official=(
        'repvgg',
        mmpretrain_block,
        {'branch_3x3': 'rbr_dense', 'branch_1x1': 'rbr_1x1', 'branch_norm': 'rbr_identity', '.norm.': '.bn.'},
    ),
    timm=(
        'repvgg',
        mmpretrain_block,
        {'branch_3x3': 'conv_kxk', 'branch_1x1': 'conv_1x1', 'branch_norm': 'identity', '.norm.': '.bn.'},
    ),
    dbb=('dbb', DBB, {}),
    acnet=('acb', ACBlock, {}),
)


def renamed(state, names):
    for old, new in names.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    return state


def trained(layout, shape):
    """A block of theirs and its state."""
    _, make, names = BLOCKS[layout]
    block = randomize(make(*shape)).double()
    return block, renamed(copy.deepcopy(block.state_dict()), names)


def step(block, x):
    """Output and the gradient of the input in training mode."""
    x = x.clone().requires_grad_()
    y = block.train()(x)
    y.square().sum().backward()
    return y.detach(), x.grad


shapes = pytest.mark.parametrize('shape', [(4, 4, 1), (4, 6, 2)], ids=['same', 'stride'])
layouts = pytest.mark.parametrize('layout', BLOCKS)


@shapes
@layouts
@pytest.mark.parametrize('genotype', ['own', 'full'])
def test_each_trained_branch_stays_what_it_is_in_eval_and_in_training(layout, shape, genotype):
    theirs, state = trained(layout, shape)
    preset = BLOCKS[layout][0] if genotype == 'own' else genotype
    ours = ODBBConv2d(shape[0], shape[1], 3, shape[2], 1, genotype=preset).double()
    assert not any(ours.load_state_dict(state)) and not ours.warm_started
    x = make_image(2, 4, 6, 7)
    assert relative_error(ours.eval()(x), theirs.eval()(x)) <= 1e-12
    kept = [name for name, branch in ours.branches.items() if branch.norm.weight.any()]
    assert kept == [name for name in PRESETS[BLOCKS[layout][0]] if name in ours.candidates]
    for _ in range(2):  # the second starts from the statistics that the first has moved
        for got, expected in zip(step(ours, x), step(theirs, x)):
            assert relative_error(got, expected) <= 1e-11
    assert relative_error(ours.eval()(x), theirs.eval()(x)) <= 1e-11


@shapes
@layouts
@pytest.mark.parametrize(
    'form', [{}, dict(genotype='plain'), dict(share_weights=True, genotype='dbb'), dict(deploy=True)]
)
def test_elsewhere_the_main_branch_computes_what_they_did(layout, shape, form):
    theirs, state = trained(layout, shape)
    ours = ODBBConv2d(shape[0], shape[1], 3, shape[2], 1, **form).double()
    if form.get('deploy'):
        ours = ODBBlock(shape[0], shape[1], 3, shape[2], act_cfg=None, deploy=True).double()
    before = torch.get_rng_state()
    assert not any(ours.load_state_dict(state))
    assert torch.equal(torch.get_rng_state(), before)
    x = make_image(2, 4, 6, 7)
    assert relative_error(ours.eval()(x), theirs.eval()(x)) <= 1e-12


@pytest.mark.parametrize('fused', ['branch_reparam', 'rbr_reparam', 'reparam_conv', 'dbb_reparam', 'fused_conv'])
@pytest.mark.parametrize('genotype', [None, 'repvgg'])
def test_their_fused_blocks_load(fused, genotype):
    conv = nn.Conv2d(4, 4, 3, padding=1)
    ours = ODBBConv2d(4, 4, 3, padding=1, genotype=genotype)
    ours.load_state_dict({f'{fused}.{key}': value for key, value in conv.state_dict().items()})
    x = make_image(2, 4, 6, 7).float()
    assert relative_error(ours.eval()(x), conv(x)) <= 1e-6


@layouts
def test_a_block_that_is_not_whole_is_refused_in_a_sentence_that_names_its_layout(layout):
    name = dict(mmpretrain='RepVGG', official='official RepVGG', timm="timm's RepVGG", dbb='official DBB')
    state = trained(layout, (4, 4, 1))[1]
    del state[next(key for key in state if 'running_mean' in key)]
    what = name.get(layout, 'official ACNet')
    with pytest.raises(ValueError, match=f"^The checkpoint's {what} block '0' is not whole: .*running_mean"):
        model = nn.Sequential(ODBBConv2d(4, 4, 3, padding=1, genotype='full'))
        model.load_state_dict({f'0.{key}': value for key, value in state.items()})


def test_parts_that_are_no_branch_are_refused_with_the_way_out():
    state = trained('dbb', (4, 4, 1))[1]
    state['dbb_1x1_kxk.conv1.weight'] = torch.zeros(8, 4, 1, 1)
    with pytest.raises(ValueError, match=r"has 'dbb_1x1_kxk.conv1.weight', which is in no branch here; fuse .*deploy"):
        ODBBConv2d(4, 4, 3, padding=1).load_state_dict(state)
    state = trained('official', (4, 4, 1))[1]
    with pytest.raises(ValueError, match="'skip' does not exist in a block with"):
        ODBBConv2d(4, 4, 3, 2, padding=1).load_state_dict(state)
    with pytest.raises(ValueError, match='is it of another arch'):
        ODBBConv2d(4, 4, 5, padding=2).load_state_dict(state)


# ------------------------------------------------------------------------------------------------ whole networks


def official(stock):
    """State of a stock RepVGG by the names of the authors' repository."""
    state = renamed(stock.state_dict(), {**BLOCKS['official'][2], 'branch_reparam': 'rbr_reparam'})
    return {key.replace('stem.', 'stage0.').replace('stage_', 'stage'): value for key, value in state.items()}


def outputs(model):
    model.eval()
    with torch.no_grad():
        return model(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double())[-1]


@pytest.mark.parametrize('form', [dict(genotype='repvgg'), {}, dict(deploy=True)], ids=['subnet', 'search', 'fused'])
@pytest.mark.parametrize('deploy', [False, True], ids=['trained', 'deployed'])
def test_an_official_repvgg_loads_whole_as_a_pretrained_backbone(deploy, form):
    stock = randomize(RepVGG('B1g2', base_channels=8)).double()
    stock.eval()
    if deploy:
        stock.switch_to_deploy()
    state = dict(official(stock), **{'linear.weight': torch.zeros(2, 2)})
    ours = ODBBBackbone('B1g2', base_channels=8, **form).double()
    _load_checkpoint_to_model(ours, dict(state_dict=state))
    assert relative_error(outputs(ours), outputs(stock)) <= 1e-11
    if form and not deploy and not form.get('deploy'):
        assert all(branch.norm.weight.any() for b in find_blocks(ours).values() for branch in b.branches.values())


def test_timms_repvgg_a0_loads_whole():
    theirs = timm.create_model('repvgg_a0', num_classes=2).double().eval()
    ours = ODBBBackbone('A0', genotype='repvgg').double()
    _load_checkpoint_to_model(ours, dict(state_dict=theirs.state_dict()))
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert relative_error(ours.eval()(x)[-1], theirs.forward_features(x)) <= 1e-11


@pytest.mark.parametrize('state', [{'stage0.rbr_dense.conv.weight': 0}, {'module.stage1.0.rbr_reparam.bias': 0}])
def test_a_bare_network_for_a_whole_classifier_is_refused_and_not_passed_over(state):
    model = nn.Module()
    model.backbone = nn.Identity()
    with pytest.raises(ValueError, match=r"without a 'backbone.' before its names; load it by init_cfg=.*converters"):
        SafeLoadHook().after_load_checkpoint(SimpleNamespace(model=model), dict(state_dict=state))
