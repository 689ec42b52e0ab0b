"""ODBBConv2d: the block as a convolution layer, which takes nn.Conv2d's arguments and becomes one when fused."""

import copy
import pickle

import pytest
import torch
from blocks import make_image, mask_of, randomize, relative_error
from mmcv.cnn import ConvModule, build_conv_layer
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from mmengine.config import Config
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn

from repnas_mm.models import ODBBConv2d, ODBBlock
from repnas_mm.search import Genotype, find_blocks

CFG = dict(type='ODBBConv2d')


def make(*args, **kwargs):
    return randomize(ODBBConv2d(*(args or (4, 4, 3)), **dict(padding=1) | kwargs)).double()


def plain(bias=True, seed=3, **kwargs):
    return randomize(nn.Conv2d(4, 4, 3, **dict(padding=1) | kwargs, bias=bias), seed).double()


def is_one_sentence(error):
    text = str(error.value)
    return text.endswith('.') and '\n' not in text


x = make_image(2, 4, 6, 7)


# ---------------------------------------------------------------- as a layer


def test_mmcv_builds_it_from_a_conv_cfg_with_the_layers_own_arguments():
    layer = build_conv_layer(CFG, 4, 8, 5, stride=2, padding=(4, 3), dilation=2, groups=2, bias=False)
    assert type(layer) is ODBBConv2d and layer.alpha is not None
    stock = nn.Conv2d(4, 8, 5, 2, (4, 3), 2, groups=2)
    assert layer(x.float()).shape == stock(x.float()).shape
    for name in ('in_channels', 'out_channels', 'groups', 'padding', 'dilation', 'padding_mode', 'transposed'):
        assert getattr(layer, name) == getattr(stock, name), name


def test_a_conv_cfg_takes_the_place_of_none_in_a_base_config_by_delete(tmp_path):
    (tmp_path / 'base.py').write_text('model = dict(conv_cfg=None)')  # as mmseg's UNet
    texts = [
        f"_base_ = 'base.py'\nmodel = dict(conv_cfg=dict({first}type='ODBBConv2d'))"
        for first in ('', '_delete_=True, ')
    ]
    for name, text in zip(('without.py', 'with.py'), texts):
        (tmp_path / name).write_text(text)
    with pytest.raises(TypeError, match="type <class 'NoneType'> in base config"):
        Config.fromfile(tmp_path / 'without.py')
    assert build_conv_layer(Config.fromfile(tmp_path / 'with.py').model.conv_cfg, 4, 4, 3).alpha is not None


def test_options_in_a_conv_cfg_reach_the_block():
    layer = build_conv_layer(dict(CFG, genotype='dbb', with_cp=True, norm_cfg=dict(type='BN', eps=1e-3)), 4, 4, 3)
    assert tuple(layer.branches) == ('1x1', 'kxk', '1x1_kxk', '1x1_avg') and layer.with_cp
    assert layer.branches['kxk'].norm.eps == 1e-3


@pytest.mark.parametrize('norm_cfg', [None, dict(type='BN'), dict(type='GN', num_groups=2)])
def test_a_conv_module_holds_it_as_its_convolution(norm_cfg):
    module = randomize(ConvModule(4, 4, 3, padding=1, conv_cfg=CFG, norm_cfg=norm_cfg)).double().eval()
    assert list(find_blocks(module)) == ['conv']
    assert module.conv.with_bias == (norm_cfg is None)
    expected = module(x)
    module.conv.switch_to_deploy()
    assert relative_error(module(x), expected) <= 1e-12


@pytest.mark.parametrize('arguments', [dict(kernel_size=(3, 3), stride=(2, 2)), dict(kernel_size=[3, 3], stride=2)])
@pytest.mark.parametrize('padding', [1, (1, 1), [1, 1]])
def test_tuples_are_as_good_as_integers(arguments, padding):
    layer = randomize(ODBBConv2d(4, 4, padding=padding, dilation=(1, 1), **arguments)).double().eval()
    integers = make(stride=2).eval()
    assert torch.equal(layer(x), integers(x))


INELIGIBLE = dict(
    pointwise=dict(kernel_size=1),
    even=dict(kernel_size=2),
    even_pair=dict(kernel_size=(4, 4)),
    oblong=dict(kernel_size=(3, 5)),
    row=dict(kernel_size=(1, 3)),
    dilated_rows=dict(kernel_size=3, dilation=(2, 1)),
    dilated_pointwise=dict(kernel_size=1, dilation=2),
    same=dict(kernel_size=3, padding='same'),
    valid=dict(kernel_size=3, padding='valid'),
    reflect=dict(kernel_size=3, padding=1, padding_mode='reflect'),
    oblong_stride=dict(kernel_size=3, stride=(1, 2)),
)


@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('arguments', INELIGIBLE.values(), ids=INELIGIBLE)
def test_what_cannot_be_a_block_is_an_ordinary_convolution(arguments, deploy):
    layer = build_conv_layer(dict(CFG, genotype='repvgg', deploy=deploy), 4, 6, bias=False, **arguments)
    stock = nn.Conv2d(4, 6, bias=False, **arguments)
    assert type(layer) is nn.Conv2d and str(layer) == str(stock)
    stock.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x.float()), stock(x.float()))


@pytest.mark.parametrize(
    'arguments',
    [dict(kernel_size=(3, 3, 3)), dict(kernel_size=(1, 7, 7)), dict(kernel_size=3, stride=(1, 2, 2))]
    + [dict(kernel_size=3, padding=(0, 1, 1)), dict(kernel_size=1, dilation=[1, 1, 1])],
)
def test_a_3d_convolution_is_one_sentence(arguments):
    with pytest.raises(ValueError, match='is of a 3-D convolution, which an ODBBConv2d does not support') as error:
        build_conv_layer(CFG, 4, 4, **arguments)
    assert is_one_sentence(error)


def test_what_cannot_be_a_block_pads_adaptively_when_told_to():
    assert type(ODBBConv2d(4, 4, 1, 2, adaptive_padding=True)) is Conv2dAdaptivePadding


@pytest.mark.parametrize('kwargs', [dict(), dict(genotype='repvgg'), dict(deploy=True, bias=False)])
def test_copies_and_pickles_compute_the_same_and_are_their_own(kwargs):
    layer = make(**kwargs).eval()
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(copied) is type(layer)
        assert torch.equal(copied(x), layer(x))
        assert not {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in layer.parameters()}


def test_a_copy_of_a_search_goes_its_own_way():
    layer = make()
    layer.set_active(mask_of(layer, ['kxk', 'skip']))
    copied = copy.deepcopy(layer)
    copied.switch_to_deploy()
    assert isinstance(layer, ODBBlock) and layer.active_branches == ('kxk', 'skip')


# ---------------------------------------------------------------- presets


def test_a_preset_keeps_what_exists_and_is_unshared():
    layer = ODBBConv2d(4, 4, 3, padding=1, genotype='repvgg')
    assert layer.active_branches == ('1x1', 'kxk', 'skip') and layer.alpha is None
    assert not layer.share_weights and layer.kernel is None
    assert ODBBConv2d(4, 4, 3, 2, 1, genotype='repvgg').active_branches == ('1x1', 'kxk')


@pytest.mark.parametrize('genotype', [None, 'dbb'])
def test_weights_are_shared_only_if_told(genotype):
    assert not ODBBConv2d(4, 4, 3, genotype=genotype).share_weights
    assert ODBBConv2d(4, 4, 3, genotype=genotype, share_weights=True).share_weights


@pytest.mark.parametrize('genotype', ['repvvg', 'random', 'genotype.json'])
def test_an_unknown_preset_is_one_sentence(genotype):
    with pytest.raises(ValueError, match=f"genotype='{genotype}' .*must be one of the presets plain, acb") as error:
        ODBBConv2d(4, 4, 3, genotype=genotype)
    assert is_one_sentence(error)


def test_a_searched_genotype_is_read_from_it_as_from_any_block():
    model = nn.Sequential(make(), nn.ReLU(), make(4, 8, 3))
    genotype = Genotype({'0': ('kxk', 'skip'), '2': ('1x1',)}, share_weights=False)
    genotype.apply_to(model)
    assert Genotype.from_model(model) == genotype


# ---------------------------------------------------------------- fusing


@pytest.mark.parametrize('kwargs', [dict(), dict(genotype='acb'), dict(share_weights=True, stride=2, padding=(0, 2))])
@pytest.mark.parametrize('bias', [True, False])
def test_fused_the_very_object_is_a_convolution_that_computes_the_same(kwargs, bias):
    model = nn.Sequential(make(**kwargs, bias=bias)).eval()
    layer, expected = model[0], model(x)
    layer.switch_to_deploy()
    assert model[0] is layer and type(layer) is nn.Conv2d
    assert relative_error(layer(x), expected) <= 1e-12
    stock = nn.Conv2d(4, 4, 3, kwargs.get('stride', 1), kwargs.get('padding', 1))
    assert str(layer) == str(stock) and layer.state_dict().keys() == stock.state_dict().keys()
    assert vars(layer).keys() == vars(stock).keys()


def test_fused_an_adaptively_padded_one_still_is():
    layer = make(4, 8, 5, stride=2, padding=0, adaptive_padding=True).eval()
    expected = layer(x)
    layer.switch_to_deploy()
    assert type(layer) is Conv2dAdaptivePadding
    assert relative_error(layer(x), expected) <= 1e-12


def test_every_name_of_a_shared_block_sees_the_fused_convolution():
    layer = make().eval()
    heads = nn.ModuleList([nn.Sequential(layer), nn.Sequential(layer)])
    expected = heads[1](x)
    heads[0][0].switch_to_deploy()
    assert heads[1][0] is heads[0][0] and not find_blocks(heads)
    assert relative_error(heads[1](x), expected) <= 1e-12


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('trainable', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_fusing_keeps_mode_trainability_type_and_device(training, trainable, dtype):
    layer = make().to(dtype).train(training).requires_grad_(trainable)
    layer.switch_to_deploy()
    assert layer.training == training
    assert [p.requires_grad for p in layer.parameters()] == [trainable] * 2
    assert {(p.dtype, p.device.type) for p in layer.parameters()} == {(dtype, 'cpu')}
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in layer.parameters())


def test_a_fused_convolution_copies_pickles_and_trains():
    layer = make()
    layer.switch_to_deploy()
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(copied) is nn.Conv2d and torch.equal(copied(x), layer(x))
    layer(x).sum().backward()
    assert layer.weight.grad.abs().min() > 0 and layer.bias.grad.abs().min() > 0


def test_recomputation_gives_the_same_gradients():
    layers = [make(with_cp=with_cp) for with_cp in (False, True)]
    gradients = []
    for layer in layers:
        image = x.clone().requires_grad_()
        layer(image).square().mean().backward()
        gradients.append([image.grad, *(p.grad for p in layer.parameters() if p.grad is not None)])
    for got, expected in zip(*gradients):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    assert all(map(torch.equal, layers[0].buffers(), layers[1].buffers()))


# ---------------------------------------------------------------- loading


def searched():
    layer = make()
    layer.set_active(mask_of(layer, ['kxk', '1x1_avg', 'skip']))
    return layer.eval()


def test_a_search_goes_on_with_the_active_branches_of_its_checkpoint():
    source, layer = searched(), make().eval()
    layer.load_state_dict(source.state_dict())
    assert layer.active_branches == ('kxk', '1x1_avg', 'skip') and layer.alpha is not None
    assert torch.equal(layer(x), source(x))


@pytest.mark.parametrize('names', [('kxk', 'skip'), ('skip',), ('1x1_avg',)])
@pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
def test_a_subnets_checkpoint_makes_the_search_form_that_subnet(names, share_weights):
    source, model = (nn.Sequential(make(share_weights=share_weights)).eval() for _ in range(2))
    randomize(model, seed=5)
    source[0].switch_to_subnet(names)
    model.load_state_dict(source.state_dict())
    assert tuple(model[0].branches) == names and model[0].alpha is None
    assert torch.equal(model(x), source(x))


def test_a_preset_takes_its_part_of_a_search():
    source = searched()
    layer = make(genotype='acb').eval()
    _load_checkpoint_to_model(layer, source.state_dict())
    source.set_active(mask_of(source, ['kxk', '1xk', 'kx1']))
    assert torch.equal(layer(x), source(x))


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('genotype', [None, 'repvgg'])
def test_a_stock_checkpoint_is_where_it_starts(bias, genotype):
    stock = nn.Sequential(plain(bias))
    model = nn.Sequential(make(genotype=genotype, bias=bias)).eval()
    model.load_state_dict(stock.state_dict())
    assert isinstance(model[0], ODBBConv2d) and relative_error(model(x), stock(x)) <= 1e-12


def test_a_fused_checkpoint_is_where_it_starts():
    source, layer = searched(), make().eval()
    expected = source(x)
    source.switch_to_deploy()
    layer.load_state_dict(source.state_dict())
    assert isinstance(layer, ODBBConv2d) and relative_error(layer(x), expected) <= 1e-12


@pytest.mark.parametrize('adaptive_padding', [True, False])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('given', [True, False], ids=['with_bias', 'without_bias'])
def test_deployed_it_is_a_convolution_that_takes_the_bias_its_checkpoint_has(bias, given, adaptive_padding):
    source = plain(given)
    layer = ODBBConv2d(4, 4, 3, padding=1, bias=bias, deploy=True, adaptive_padding=adaptive_padding).double()
    assert type(layer) is (Conv2dAdaptivePadding if adaptive_padding else nn.Conv2d)
    assert (layer.bias is not None) == bias
    model = nn.Sequential(layer)
    if bias and not given:
        with pytest.raises(RuntimeError, match='Missing key'):
            model.load_state_dict(nn.Sequential(source).state_dict())
        return
    model.load_state_dict(nn.Sequential(source).state_dict())
    assert torch.equal(model(x), source(x))


def test_a_copy_of_a_deployed_convolution_takes_the_bias_for_itself():
    original = ODBBConv2d(4, 4, 3, padding=1, bias=False, deploy=True).double()
    for copied in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        copied.load_state_dict(plain().state_dict())
        assert original.bias is None and torch.equal(copied(x), plain()(x))


def test_a_checkpoint_that_does_not_fit_is_one_sentence_even_to_a_lenient_loader():
    acb = nn.Sequential(make(genotype='acb')).state_dict()
    with pytest.raises(ValueError, match="block '0' has branches kxk, 1xk, kx1") as error:
        _load_checkpoint_to_model(nn.Sequential(make(genotype='repvgg')), acb)
    assert is_one_sentence(error)
    with pytest.raises(ValueError, match=r"convolution '0' has a kernel of shape \(4, 4, 5, 5\)") as error:
        _load_checkpoint_to_model(nn.Sequential(make()), {'0.weight': torch.zeros(4, 4, 5, 5)})
    assert str(error.value).endswith('is it of another arch?')
