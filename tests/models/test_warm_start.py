"""A block that loads ordinary weights computes what they did, in eval mode and in its first step of training."""

import copy
from itertools import product

import pytest
import torch
from blocks import make_image, randomize, relative_error
from mmengine.runner import load_checkpoint
from mmpretrain.models.backbones import RepVGG
from mmpretrain.models.backbones.repvgg import RepVGGBlock
from torch import nn

from repnas_mm.models import ODBBBackbone, ODBBConv2d, ODBBlock
from repnas_mm.models.norm import move_statistics
from repnas_mm.models.warm_start import HEAD_START
from repnas_mm.search import find_blocks

#: (in_channels, out_channels, stride): with and without an identity branch
SHAPES = [(4, 4, 1), (4, 8, 1), (4, 4, 2)]
shapes = pytest.mark.parametrize('shape', SHAPES, ids=['in=out', 'in<out', 'stride2'])
groupings = pytest.mark.parametrize('groups', [1, 2], ids=['dense', 'groups'])
sharing = pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])

x = make_image(2, 4, 6, 7)


def conv_with_bias(shape, groups):
    return randomize(nn.Conv2d(*shape[:2], 3, shape[2], 1, groups=groups), seed=3)


def conv_without_bias(shape, groups):
    return randomize(nn.Conv2d(*shape[:2], 3, shape[2], 1, groups=groups, bias=False), seed=3)


def fused_block(shape, groups):
    return randomize(ODBBlock(*shape[:2], 3, shape[2], groups, act_cfg=None, deploy=True), seed=3)


def repvgg_block(shape, groups):
    block = randomize(RepVGGBlock(*shape[:2], shape[2], groups=groups), seed=3)
    block.act = nn.Identity()
    return block.eval()


def fused_repvgg_block(shape, groups):
    block = repvgg_block(shape, groups).double()  # exact, since the stock fusing rounds
    block.switch_to_deploy()
    return block.float()


SOURCES = [conv_with_bias, conv_without_bias, fused_block, repvgg_block, fused_repvgg_block]
sources = pytest.mark.parametrize('source', SOURCES, ids=lambda source: source.__name__)


def block_like(shape, groups, **kwargs):
    """A random block, so that anything loading forgets shows."""
    block = ODBBlock(*shape[:2], 3, shape[2], groups, **dict(act_cfg=None) | kwargs)
    return randomize(block)


def is_one_sentence(error):
    text = str(error.value)
    return text[-1] in '.?' and '\n' not in text


# ---------------------------------------------------------------- eval mode


@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=['f64', 'f32'])
@pytest.mark.parametrize('branches', [None, ('kxk', '1x1', '1x1_kxk'), ('kxk',)], ids=['search', 'subnet', 'kxk'])
@sharing
@groupings
@shapes
@sources
def test_the_block_computes_what_was_loaded(source, shape, groups, share_weights, branches, dtype, tolerance):
    trained = source(shape, groups).to(dtype)
    block = block_like(shape, groups, branches=branches, share_weights=share_weights).to(dtype).eval()
    assert not any(block.load_state_dict(trained.state_dict()))
    with torch.no_grad():
        assert relative_error(block(x.to(dtype)), trained(x.to(dtype))) <= tolerance
    assert set(block.branches) == set(branches or block.candidates)


@groupings
@shapes
@sources
def test_the_fused_form_loads_it_too(source, shape, groups):
    trained = source(shape, groups).double()
    block = block_like(shape, groups, deploy=True).double()
    block.load_state_dict(trained.state_dict())
    assert relative_error(block(x), trained(x)) <= 1e-12


@pytest.mark.parametrize('kernel_size, dilation', [(5, 1), (7, 1), (3, 2), (5, 3)])
def test_larger_and_dilated_kernels_load_too(kernel_size, dilation):
    padding = kernel_size // 2 * dilation
    trained = randomize(nn.Conv2d(4, 4, kernel_size, padding=padding, dilation=dilation)).double()
    block = randomize(ODBBlock(4, 4, kernel_size, dilation=dilation, act_cfg=None), seed=4).double().eval()
    block.load_state_dict(trained.state_dict())
    assert relative_error(block(x), trained(x)) <= 1e-12
    assert relative_error(block.train()(x), trained(x)) <= 1e-12  # with the statistics of its first batch


def test_repvggs_norms_are_read_with_the_blocks_own_eps():
    trained = RepVGGBlock(4, 4, norm_cfg=dict(type='BN', eps=1e-2), act_cfg=dict(type='ReLU'))
    trained = randomize(trained).double().eval()
    block = ODBBlock(4, 4, norm_cfg=dict(type='BN', eps=1e-2)).double().eval()
    block.load_state_dict(trained.state_dict())
    assert relative_error(block(x), trained(x)) <= 1e-12


@pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
def test_it_still_fuses_exactly(share_weights):
    trained = conv_with_bias(SHAPES[0], 1).double()
    block = block_like(SHAPES[0], 1, share_weights=share_weights).double().eval()
    block.load_state_dict(trained.state_dict())
    block.switch_to_deploy()
    assert relative_error(block.reparam.weight, trained.weight) <= 1e-12
    assert relative_error(block.reparam.bias, trained.bias) <= 1e-12


def test_the_checkpoint_itself_is_left_as_it_is():
    state = repvgg_block(SHAPES[0], 1).state_dict()
    before = {key: value.clone() for key, value in state.items()}
    block = block_like(SHAPES[0], 1)
    block.load_state_dict(state)
    block.train()(x.float())
    assert state.keys() == before.keys() and all(torch.equal(state[key], before[key]) for key in state)


# ---------------------------------------------------------------- whole networks

#: B1g2 narrow: 28 blocks, every second one grouped
NETWORKS = [('A0', 16), ('B1g2', 8)]


def stock_network(arch, base_channels, deploy):
    """mmpretrain's RepVGG, random, float64."""
    model = randomize(RepVGG(arch, base_channels=base_channels, out_indices=(0, 1, 2, 3))).double()
    model.eval()  # returns None there
    if deploy:
        model.switch_to_deploy()
    return model


@pytest.mark.parametrize('deploy', [False, True], ids=['train_mode', 'deploy_mode'])
@pytest.mark.parametrize(
    'form', [dict(), dict(genotype='repvgg'), dict(deploy=True)], ids=['search', 'subnet', 'fused']
)
@pytest.mark.parametrize('arch, base_channels', NETWORKS)
def test_a_stock_repvgg_loads_whole(arch, base_channels, form, deploy):
    stock = stock_network(arch, base_channels, deploy)
    ours = ODBBBackbone(arch, base_channels=base_channels, out_indices=(0, 1, 2, 3), **form).double().eval()
    assert not any(ours.load_state_dict(stock.state_dict()))
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        for got, expected in zip(ours(image), stock(image)):
            assert relative_error(got, expected) <= 1e-11


def save_classifier(path, backbone):
    """A checkpoint as mmpretrain publishes it: of the whole model."""
    state = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    torch.save(dict(state_dict={**state, 'head.fc.weight': torch.zeros(2, 2)}, meta={}), path)
    return str(path)


def test_a_published_checkpoint_is_an_init_cfg(tmp_path):
    stock = stock_network('A0', 16, False).float()
    path = save_classifier(tmp_path / 'repvgg.pth', stock)
    init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    ours = ODBBBackbone('A0', base_channels=16, out_indices=(0, 1, 2, 3), init_cfg=init_cfg)
    ours.init_weights()
    ours, stock = ours.double().eval(), stock.double()
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert relative_error(ours(image)[3], stock(image)[3]) <= 1e-5
    assert all(block.warm_started for block in find_blocks(ours).values())


# ---------------------------------------------------------------- the other branches


@sharing
@groupings
@shapes
def test_every_other_branch_is_there_and_gives_zero_and_learns(shape, groups, share_weights):
    block = block_like(shape, groups, share_weights=share_weights).double()
    block.load_state_dict(conv_with_bias(shape, groups).double().state_dict())
    assert block.active_branches == block.candidates
    block.train()(x).square().sum().backward()
    for name, branch in block.branches.items():
        assert (branch.norm.weight == 0).all() == (name != 'kxk'), name
        assert branch.norm.weight.grad.abs().min() > 0, name


def test_a_search_starts_with_the_loaded_branch_ahead():
    block = block_like(SHAPES[0], 1)
    alpha = block.alpha.detach().clone()
    for _ in range(2):  # not ahead twice after two loads
        block.load_state_dict(conv_with_bias(SHAPES[0], 1).state_dict())
        expected = alpha.clone()
        expected[block.candidates.index('kxk')] = HEAD_START
        assert torch.equal(block.alpha, expected)


def test_the_head_start_is_drawn_in_19_of_20_comparisons():
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(2, 200_000, generator=generator, dtype=torch.float64)
    own, other = uniform.log() - (-uniform).log1p()
    assert round(20 * (HEAD_START + own > other).double().mean().item()) == 19


def test_a_frozen_block_computes_the_loaded_branch_alone():
    block = block_like(SHAPES[0], 1).double().requires_grad_(False).eval()
    trained = conv_with_bias(SHAPES[0], 1).double()
    block.load_state_dict(trained.state_dict())
    assert block.active_branches == ('kxk',) and block.active.tolist().count(True) == 1
    assert relative_error(block(x), trained(x)) <= 1e-12


def test_frozen_stages_compute_the_loaded_branch_alone():
    stock = stock_network('A0', 16, False)
    ours = ODBBBackbone('A0', base_channels=16, frozen_stages=2)
    ours.load_state_dict(stock.state_dict())
    for name, block in find_blocks(ours).items():
        frozen = name.split('.')[0] in ('stem', 'stage_1', 'stage_2')
        assert block.active_branches == (('kxk',) if frozen else block.candidates), name


# ---------------------------------------------------------------- the first step of training


# statistics are taken in float32, whatever the parameters are
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-6), (torch.float32, 1e-5)], ids=['f64', 'f32'])
@pytest.mark.parametrize('with_cp', [False, True])
@sharing
@groupings
@shapes
def test_the_first_training_forward_is_the_loaded_convolution(shape, groups, share_weights, with_cp, dtype, tolerance):
    trained = conv_with_bias(shape, groups).to(dtype)
    block = block_like(shape, groups, share_weights=share_weights, with_cp=with_cp).to(dtype).train()
    block.load_state_dict(trained.state_dict())
    assert relative_error(block(x.to(dtype).requires_grad_()), trained(x.to(dtype))) <= tolerance


def test_the_first_training_forward_of_a_padded_layer_is_the_loaded_convolution():
    for padding, stride in product([0, 2, (1, 3)], [1, 2]):
        trained = randomize(nn.Conv2d(4, 4, 3, stride, padding)).double()
        layer = ODBBConv2d(4, 4, 3, stride, padding).double().train()
        layer.load_state_dict(trained.state_dict())
        assert relative_error(layer(x), trained(x)) <= 1e-6


def test_only_the_first_batch_gives_its_statistics():
    block = block_like(SHAPES[0], 1, norm_cfg=dict(type='BN', momentum=0.0)).double().train()
    block.load_state_dict(conv_with_bias(SHAPES[0], 1).double().state_dict())
    norm = block.branches['kxk'].norm
    block(x)
    first = copy.deepcopy(norm.state_dict())
    block(make_image(2, 4, 6, 7, seed=9))
    for key in ('running_mean', 'running_var', 'weight', 'bias'):
        assert torch.equal(norm.state_dict()[key], first[key]), key


def test_it_changes_nothing_in_eval_mode():
    trained = conv_with_bias(SHAPES[0], 1).double()
    block = block_like(SHAPES[0], 1, norm_cfg=dict(type='BN', momentum=0.0)).double()  # statistics do not drift
    block.load_state_dict(trained.state_dict())
    block.train()(x)
    other = make_image(2, 4, 6, 7, seed=9)
    assert relative_error(block.eval()(other), trained(other)) <= 1e-12


def test_afterwards_statistics_are_the_batchs_and_move_as_ever():
    trained = conv_with_bias(SHAPES[0], 1).double()
    block = block_like(SHAPES[0], 1).double()
    block.load_state_dict(trained.state_dict())
    block.train()(x)
    norm, y = block.branches['kxk'].norm, (trained(x) - trained.bias.view(1, -1, 1, 1)).transpose(0, 1).flatten(1)
    biased, unbiased = y.var(1, correction=0), y.var(1)
    torch.testing.assert_close(norm.running_mean, y.mean(1), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(norm.running_var, 0.9 * biased + 0.1 * unbiased, rtol=1e-6, atol=0)


def test_moving_statistics_is_exact():
    norm = randomize(nn.BatchNorm2d(4)).double().eval()
    expected = norm(x)
    mean, var = torch.randn(4, dtype=torch.float64), torch.tensor([1e-8, 0.5, 3.0, 1e4], dtype=torch.float64)
    move_statistics(norm, mean, var)
    assert torch.equal(norm.running_mean, mean) and torch.equal(norm.running_var, var)
    assert relative_error(norm(x), expected) <= 1e-12


def test_norms_in_eval_mode_keep_their_statistics():
    trained = conv_with_bias(SHAPES[0], 1).double()
    block = block_like(SHAPES[0], 1).double()
    block.load_state_dict(trained.state_dict())
    block.train()
    for branch in block.branches.values():
        branch.norm.eval()
    before = copy.deepcopy(block.branches['kxk'].norm.state_dict())
    assert relative_error(block(x), trained(x)) <= 1e-12
    assert all(torch.equal(value, before[key]) for key, value in block.branches['kxk'].norm.state_dict().items())


def test_an_eval_forward_in_between_does_not_use_the_first_step_up():
    trained = conv_with_bias(SHAPES[0], 1).double()
    block = block_like(SHAPES[0], 1).double()
    block.load_state_dict(trained.state_dict())
    block.eval()(x)
    assert relative_error(block.train()(x), trained(x)) <= 1e-6


def test_a_dead_channel_stays_finite():
    trained = conv_with_bias(SHAPES[0], 1)
    trained.weight.data[0] = 0
    block = block_like(SHAPES[0], 1)
    block.load_state_dict(trained.state_dict())
    torch.testing.assert_close(block.train()(x.float()), trained(x.float()), rtol=1e-4, atol=1e-3)


def test_a_resumed_search_has_had_its_first_step():
    """A runner loads init_cfg's ordinary weights first and the checkpoint to resume from then."""
    trained = block_like(SHAPES[0], 1).double()
    resumed = block_like(SHAPES[0], 1).double()
    resumed.load_state_dict(conv_with_bias(SHAPES[0], 1).double().state_dict())
    resumed.load_state_dict(trained.state_dict())
    assert torch.equal(resumed.train()(x), trained.train()(x))
    for (key, value), expected in zip(resumed.state_dict().items(), trained.state_dict().values()):
        assert torch.equal(value, expected), key


def test_a_whole_network_starts_training_where_the_fused_one_was():
    stock = stock_network('A0', 16, True)
    ours = ODBBBackbone('A0', base_channels=16, out_indices=(0, 1, 2, 3)).double().train()
    ours.load_state_dict(stock.state_dict())
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for got, expected in zip(ours(image), stock(image)):
        assert relative_error(got, expected) <= 1e-5


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize('source', [conv_with_bias, fused_block, repvgg_block], ids=lambda source: source.__name__)
def test_a_subnet_without_the_main_branch_cannot_hold_it(source):
    model = nn.ModuleDict(dict(stem=block_like(SHAPES[0], 1, branches=('1x1', 'skip'))))
    state = {f'stem.{key}': value for key, value in source(SHAPES[0], 1).state_dict().items()}
    with pytest.raises(ValueError, match=r"Block 'stem' has no branch 'kxk' to hold") as error:
        model.load_state_dict(state)
    assert is_one_sentence(error)


@pytest.mark.parametrize('deploy', [False, True])
@sources
def test_another_shape_is_one_sentence_that_names_the_block(source, deploy):
    model = nn.ModuleDict(dict(stem=block_like(SHAPES[1], 1, deploy=deploy)))
    state = {f'stem.{key}': value for key, value in source(SHAPES[0], 1).state_dict().items()}
    with pytest.raises(ValueError, match=r"'stem' has a kernel of shape \(4, 4, 3, 3\), .* \(8, 4, 3, 3\)") as error:
        model.load_state_dict(state)
    assert is_one_sentence(error)


TINY_OURS = dict(num_blocks=[1, 2], width_factor=[1, 1])
TINY = dict(num_blocks=[1, 2], width_factor=[1, 1], group_layer_map=None, se_cfg=None)
OTHERS = dict(
    other_width=(dict(TINY, width_factor=[1, 2]), 'is it of another arch'),
    too_few_blocks=(dict(TINY, num_blocks=[1, 1]), "The checkpoint has no block '.*stage_2.1'; it is of another arch"),
    too_many_blocks=(dict(TINY, num_blocks=[1, 3]), r"The checkpoint has '.*stage_2\.2\..*', the model not; it is of"),
    too_few_stages=(dict(TINY, num_blocks=[1], width_factor=[1]), "The checkpoint has no block '.*stage_2.0'"),
    too_many_stages=(dict(TINY, num_blocks=[1, 2, 1], width_factor=[1] * 3), r"has '.*stage_3\.0\..*', the model not"),
)


@pytest.mark.parametrize('loader', ['strict', 'lenient', 'pretrained'])
@pytest.mark.parametrize('stock', [False, True], ids=['ours', 'stock'])
@pytest.mark.parametrize('arch, what', OTHERS.values(), ids=OTHERS)
def test_a_checkpoint_of_another_arch_is_one_sentence(arch, what, stock, loader, tmp_path):
    stages = len(arch['num_blocks'])
    given = (
        RepVGG(arch, base_channels=4, strides=(2,) * stages, dilations=(1,) * stages, out_indices=(0,))
        if stock
        else ODBBBackbone({key: arch[key] for key in ('num_blocks', 'width_factor')}, base_channels=4)
    )
    path = save_classifier(tmp_path / 'other.pth', given)
    init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    ours = ODBBBackbone(TINY_OURS, base_channels=4, init_cfg=init_cfg)
    with pytest.raises(ValueError, match=what) as error:
        if loader == 'strict':
            ours.load_state_dict(given.state_dict())
        elif loader == 'lenient':
            load_checkpoint(nn.ModuleDict(dict(backbone=ours)), path)
        else:
            ours.init_weights()
    assert is_one_sentence(error)


@pytest.mark.parametrize('loader', ['strict', 'lenient', 'pretrained'])
def test_a_whole_models_checkpoint_without_a_prefix_is_one_sentence_with_the_remedy(loader, tmp_path):
    ours = ODBBBackbone(TINY_OURS, base_channels=4)
    path = save_classifier(tmp_path / 'whole.pth', ours)
    ours.init_cfg = dict(type='Pretrained', checkpoint=path)
    with pytest.raises(ValueError, match=r"no block 'stem'.*give init_cfg prefix='backbone\.'\)") as error:
        if loader == 'strict':
            ours.load_state_dict(torch.load(path)['state_dict'])
        elif loader == 'lenient':
            load_checkpoint(ours, path)
        else:
            ours.init_weights()
    assert is_one_sentence(error)


def test_a_larger_model_may_load_a_checkpoint_without_this_backbone():
    model = nn.ModuleDict(dict(backbone=ODBBBackbone(TINY_OURS, base_channels=4), head=nn.Linear(2, 2)))
    missing, unexpected = model.load_state_dict({'head.weight': torch.zeros(2, 2)}, strict=False)
    assert not unexpected and any(key.startswith('backbone.stem.') for key in missing)
