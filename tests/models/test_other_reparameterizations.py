"""Layers of other code that fuse, or shift the samples of, convolutions inside them: those convolutions stay plain."""

import pytest
import torch
from blocks import randomize, relative_error
from mmcv.cnn import ConvModule, fuse_conv_bn
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack
from mmengine.registry import MODELS
from mmpretrain.models.backbones import LeViT, MobileOne, RepLKNet, RepVGG
from timm.utils import reparameterize_model
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import DeformConv2d

from repnas_mm.engine.fusing import fuse_model
from repnas_mm.models import ODBBBackbone, ODBBConv2d, to_odbb
from repnas_mm.search import Genotype, find_blocks


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr('repnas_mm.search.block.print_log', lambda line, logger: lines.append(line))
    return lines


class YoloBlock(nn.Module):
    """A re-parameterizable block as mmyolo's: ConvModules, and kernels read out of them."""

    def __init__(self, channels):
        super().__init__()
        norm = dict(norm_cfg=dict(type='BN'), act_cfg=None)
        self.rbr_identity = nn.BatchNorm2d(channels)
        self.rbr_dense = ConvModule(channels, channels, 3, padding=1, bias=False, **norm)
        self.rbr_1x1 = ConvModule(channels, channels, 1, bias=False, **norm)
        self.deploy = False

    def forward(self, x):
        if self.deploy:
            return torch.relu(self.rbr_reparam(x))
        return torch.relu(self.rbr_dense(x) + self.rbr_1x1(x) + self.rbr_identity(x))

    def get_equivalent_kernel_bias(self):
        kernel, bias = self._fuse_bn(self.rbr_dense.conv.weight, self.rbr_dense.bn)
        small, small_bias = self._fuse_bn(self.rbr_1x1.conv.weight, self.rbr_1x1.bn)
        unit = torch.eye(len(kernel), dtype=kernel.dtype)[:, :, None, None]
        unit, unit_bias = self._fuse_bn(unit, self.rbr_identity)
        return kernel + nn.functional.pad(small + unit, [1] * 4), bias + small_bias + unit_bias

    @staticmethod
    def _fuse_bn(kernel, bn):
        scale = bn.weight / (bn.running_var + bn.eps).sqrt()
        return kernel * scale.view(-1, 1, 1, 1), bn.bias - bn.running_mean * scale

    def switch_to_deploy(self):
        if self.deploy:
            return
        kernel, bias = self.get_equivalent_kernel_bias()
        self.rbr_reparam = nn.Conv2d(*kernel.shape[:2], 3, padding=1)
        self.rbr_reparam.weight.data, self.rbr_reparam.bias.data = kernel.detach(), bias.detach()
        del self.rbr_dense, self.rbr_1x1, self.rbr_identity
        self.deploy = True


@MODELS.register_module()
class YoloBackbone(nn.Sequential):
    """Such blocks between ordinary convolutions."""

    def __init__(self):
        stem = ConvModule(3, 8, 3, stride=2, padding=1, norm_cfg=dict(type='BN'))
        super().__init__(stem, YoloBlock(8), nn.Conv2d(8, 8, 3, padding=1), YoloBlock(8))


def switch_all_to_deploy(model):
    """mmyolo's function of this purpose."""
    for layer in model.modules():
        if hasattr(layer, 'switch_to_deploy'):
            layer.switch_to_deploy()


def image():
    return torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def outputs(model):
    model.eval()
    with torch.no_grad():
        out = model(image())
    return out[-1] if isinstance(out, tuple) else out


@pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
def test_mmyolos_deployment_of_a_searched_network_computes_the_same(log, share_weights):
    model = ODBBBackbone(base=dict(type='YoloBackbone'), share_weights=share_weights)
    assert list(find_blocks(model)) == ['0.conv', '2']
    assert [line.split("'")[1] for line in log] == ['1.rbr_dense.conv', '3.rbr_dense.conv']
    assert "is inside '1', a YoloBlock with kernels of its own to fuse; it stays plain." in log[0]
    Genotype.from_preset('full', model).apply_to(model)
    expected = outputs(randomize(model).double())
    switch_all_to_deploy(model)
    assert not find_blocks(model) and model[1].deploy
    assert relative_error(outputs(model), expected) <= 1e-10


def stock(name):
    arch = dict(num_blocks=[1] * 4, width_factor=[1 / 8] * 4)
    if name == 'RepVGG':
        arch.update(group_layer_map=None, se_cfg=None)
        return RepVGG(arch, conv_cfg=dict(type='ODBBConv2d'))
    arch.update(num_conv_branches=[2, 1, 2, 1], num_se_blocks=[0, 0, 1, 1])
    return MobileOne(arch, conv_cfg=dict(type='ODBBConv2d'))


@pytest.mark.parametrize('fuse', [lambda m: m.switch_to_deploy(), reparameterize_model], ids=['own', 'timm'])
@pytest.mark.parametrize('name', ['RepVGG', 'MobileOne'])
def test_stock_blocks_with_our_conv_cfg_are_ordinary_and_fuse_themselves(log, name, fuse):
    model = stock(name)
    assert find_blocks(model) == {} and log
    expected = outputs(randomize(model).double())
    model = fuse(model) or model
    assert relative_error(outputs(model), expected) <= 1e-10


@pytest.mark.parametrize('fuse', [lambda m: m.switch_to_deploy(), reparameterize_model], ids=['own', 'timm'])
@pytest.mark.parametrize('name', ['RepVGG', 'MobileOne'])
def test_without_our_hooks_their_fusing_is_refused_in_one_sentence(name, fuse):
    with pytest.raises(AttributeError, match=r"^An ODBBConv2d .* has no 'weight' before it is fused; call .*\.$"):
        fuse(stock(name))


@pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
@pytest.mark.parametrize('genotype', [None, 'repvgg'])
def test_a_block_is_fused_first_or_not_at_all_by_others(share_weights, genotype):
    conv = ODBBConv2d(3, 4, 3, padding=1, bias=False, share_weights=share_weights, genotype=genotype)
    model = randomize(nn.Sequential(conv, nn.BatchNorm2d(4))).double().eval()
    expected = outputs(model)
    with pytest.raises(AttributeError, match="has no 'weight' before it is fused"):
        fuse_conv_bn_eval(*model)
    assert not hasattr(conv, 'weight')
    assert relative_error(outputs(fuse_conv_bn(model)), expected) <= 1e-12  # which passes over what it does not know
    fuse_model(model)
    assert relative_error(outputs(fuse_conv_bn_eval(*model)), expected) <= 1e-12


def test_other_stock_layers_that_fuse_themselves_keep_their_convolutions(log):
    net = to_odbb(
        RepLKNet(dict(large_kernel_sizes=[7] * 4, layers=[1] * 4, channels=[8] * 4, small_kernel=5, dw_ratio=1))
    )
    assert not [name for name in find_blocks(net) if 'large_kernel' in name or 'lkb' in name] and find_blocks(net)
    with pytest.raises(ValueError, match='LeViT has no eligible convolution'):
        to_odbb(LeViT('128s'))


class WholeNetwork(nn.Sequential):
    """A network with a method that fuses its parts."""

    def switch_to_deploy(self):
        switch_all_to_deploy(self[0])

    def fuse(self):
        self.switch_to_deploy()
        return self


def test_a_network_that_only_passes_the_fusing_on_has_blocks(log):
    model = to_odbb(WholeNetwork(YoloBackbone(), nn.Conv2d(8, 8, 3)))
    assert list(find_blocks(model)) == ['0.0.conv', '0.2', '1']


# -------------------------------------------------------------------------------------- deformable convolutions


class TorchvisionPack(nn.Module):
    """Offsets and a deformable convolution side by side, as with torchvision's."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.offset = nn.Conv2d(4, 18, 3, padding=1)
        self.conv = DeformConv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x, self.offset(x))


@pytest.mark.parametrize('pack', [DeformConv2dPack, ModulatedDeformConv2dPack, TorchvisionPack])
def test_offsets_of_deformable_convolutions_stay_plain(log, pack):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), pack(4, 4, 3, padding=1))
    before = randomize(model).double().state_dict()
    expected = outputs(model)
    assert list(find_blocks(to_odbb(model))) == ['0']
    assert len(log) == 1 and 'gives the offsets of' in log[0]
    model.double().load_state_dict(before)
    assert relative_error(outputs(model), expected) <= 1e-10


def test_a_resnet_with_deformable_convolutions_computes_what_it_did(log):
    cfg = dict(type='mmdet.ResNet', depth=50, base_channels=4, stem_channels=4)
    cfg.update(
        dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False), stage_with_dcn=(False, True, True, True)
    )
    model = ODBBBackbone(base=dict(cfg))
    assert not [name for name in find_blocks(model) if 'offset' in name]
    offsets = [module for name, module in model.named_modules() if name.endswith('conv_offset')]
    assert len(offsets) == 13 and all(not conv.weight.any() for conv in offsets)  # as they were initialized
