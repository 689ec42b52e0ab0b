"""The bias of a fused convolution goes into the norm behind it where that is the stock model's place for it."""

import copy

import mmengine.model
import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.functional import relu

from repnas_mm.engine.bias_folding import fold_biases, watch_norms
from repnas_mm.engine.fusing import fuse_checked, fuse_model
from repnas_mm.models import ODBBConv2d, ODBBlock

x = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def randomize(net, seed=0):
    """Random parameters and BN statistics, none of them zero."""
    torch.manual_seed(seed)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data.normal_()
        if name.endswith('running_var'):
            tensor.data.abs_().add_(0.3)
    return net


class Net(nn.Module):
    """Convolutions `a` and `b`, norms `m` and `n`; what a test is about is how ``forward`` connects them.

    Args:
        forward: (net, image) -> tensor or list of tensors.
        conv: ODBBConv2d, or nn.Conv2d for the stock net.
    """

    def __init__(self, forward, conv=ODBBConv2d, norm=nn.BatchNorm2d, bias=False):
        super().__init__()
        self.a, self.b = (conv(4, 4, 3, padding=1, bias=bias) for _ in 'ab')
        self.m, self.n = norm(4), norm(4)
        self.connect = forward
        randomize(self).double().eval()

    def forward(self, x):
        return self.connect(self, x)


def outputs(net):
    with torch.no_grad():
        out = net(x)
    return out if isinstance(out, list) else [out]


def found(net):
    with watch_norms(net) as following:
        outputs(net)
    return dict(following)


def group_norm(channels):
    return nn.GroupNorm(2, channels)


def no_statistics(channels):
    return nn.BatchNorm2d(channels, track_running_stats=False)


def relu_between(net, x):
    return net.m(relu(net.a(x)))


def inplace_relu_between(net, x):
    return net.m(relu(net.a(x), inplace=True))


def inplace_relu_behind_the_norm(net, x):
    return relu(net.m(net.a(x)), inplace=True)


def chain(net, x):
    return net.n(net.b(relu(net.m(net.a(x)))))


def two_norms(net, x):
    y = net.a(x)
    return [net.m(y), net.n(y)]


def two_norms_at_two_levels(net, x):
    return [net.m(net.a(x)), net.n(net.a(x[:, :, ::2, ::2]))]


def one_norm_at_two_levels(net, x):
    return [net.m(net.a(x)), net.m(net.a(x[:, :, ::2, ::2]))]


def norm_of_two_convolutions(net, x):
    return net.m(net.a(x)) + net.m(net.b(x))


def norm_of_something_else_too(net, x):
    return net.m(net.a(x)) + net.m(x)


def norm_of_a_sum(net, x):
    return net.m(net.a(x) + x)


def norm_of_a_concatenation(net, x):
    return net.m(torch.cat([net.a(x)], 1))


def no_norm(net, x):
    return net.a(x)


def no_norm_at_two_levels(net, x):
    return [net.a(x), net.a(x[:, :, ::2, ::2])]


def output_that_is_gone(net, x):
    net.a(x)
    return net.m(x + 1)  # may live where the output did


# ---------------------------------------------------------------- which norm follows


@pytest.mark.parametrize(
    'forward, following',
    [
        (chain, dict(a=['m'], b=['n'])),
        (inplace_relu_behind_the_norm, dict(a=['m'])),
        (two_norms, dict(a=['m', 'n'])),
        (two_norms_at_two_levels, dict(a=['m', 'n'])),
        (one_norm_at_two_levels, dict(a=['m'])),
    ],
    ids=lambda p: getattr(p, '__name__', ''),
)
def test_norms_that_read_the_output_itself_follow(forward, following):
    assert found(Net(forward)) == following


@pytest.mark.parametrize(
    'forward',
    [
        relu_between,
        inplace_relu_between,
        norm_of_two_convolutions,
        norm_of_something_else_too,
        norm_of_a_sum,
        norm_of_a_concatenation,
        no_norm,
        no_norm_at_two_levels,
        output_that_is_gone,
    ],
    ids=lambda forward: forward.__name__,
)
def test_no_other_norm_follows(forward):
    assert found(Net(forward)) == {}


def test_a_group_norm_does_not_follow():
    assert found(Net(chain, norm=group_norm)) == {}


def test_norms_inside_a_block_do_not_count():
    assert found(nn.Sequential(ODBBlock(4, 4, act_cfg=None)).double().eval()) == {}


def test_several_forwards_are_seen_together():
    net, inputs = Net(chain), []
    net.connect = lambda net, x: net.m(net.a(x)) if not inputs else net.m(x)
    with watch_norms(net) as following:
        outputs(net)
        inputs.append(1)
        outputs(net)
    assert dict(following) == {}


def test_watching_leaves_no_hooks_behind():
    net = Net(chain)
    with pytest.raises(RuntimeError, match='stop'), watch_norms(net):
        outputs(net)
        raise RuntimeError('stop')
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


# ---------------------------------------------------------------- folding


def fused_net(forward, **kwargs):
    """The fused net, the unfused net's outputs, and the report."""
    net = Net(forward, **kwargs)
    expected = outputs(net)
    return net, expected, fuse_checked(net, outputs)


def assert_same(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert (one - other).abs().max() <= 1e-12 * other.abs().max()


@pytest.mark.parametrize('norm', [nn.BatchNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize('forward', [chain, two_norms, two_norms_at_two_levels, one_norm_at_two_levels])
def test_a_fused_net_has_the_stock_keys_and_computes_the_same_there(forward, norm):
    net, expected, fused = fused_net(forward, norm=norm)
    assert_same(outputs(net), expected)
    assert net.a.bias is None and 'a' not in fused.new_biases
    if forward is chain:
        stock = Net(forward, nn.Conv2d, norm)
        assert fused.new_biases == []
        stock.load_state_dict(net.state_dict())
        assert_same(outputs(stock), expected)


@pytest.mark.parametrize(
    'forward', [relu_between, inplace_relu_between, norm_of_two_convolutions, norm_of_a_sum, no_norm_at_two_levels]
)
def test_where_no_norm_can_take_it_the_bias_stays_and_is_reported(forward):
    net, expected, fused = fused_net(forward)
    assert_same(outputs(net), expected)
    assert fused.new_biases == ['a', 'b']
    assert net.a.bias is not None and net.a.bias.abs().min() > 0
    stock = Net(forward, nn.Conv2d)
    assert net.state_dict().keys() - stock.state_dict().keys() == {'a.bias', 'b.bias'}


@pytest.mark.parametrize('norm', [group_norm, no_statistics])
def test_norms_without_running_statistics_cannot_take_it(norm):
    net, expected, fused = fused_net(chain, norm=norm)
    assert_same(outputs(net), expected)
    assert fused.new_biases == ['a', 'b']


@pytest.mark.parametrize('forward', [chain, no_norm_at_two_levels])
def test_a_convolution_that_has_a_bias_in_the_stock_net_keeps_it(forward):
    net, expected, fused = fused_net(forward, bias=True)
    assert_same(outputs(net), expected)
    assert fused.new_biases == []
    stock = Net(forward, nn.Conv2d, bias=True)
    stock.load_state_dict(net.state_dict())
    assert_same(outputs(stock), expected)


def bypass(net, x):
    y = net.a(x)
    return net.m(y) + y


def output_and_norm(net, x):
    y = net.a(x)
    return [y, net.m(y)]


def norm_at_one_of_two_levels(net, x):
    return [net.m(net.a(x)), net.a(x[:, :, ::2, ::2])]


@pytest.mark.parametrize('forward', [bypass, output_and_norm, norm_at_one_of_two_levels])
def test_an_output_that_others_read_too_is_not_changed(forward):
    net, expected, fused = fused_net(forward)
    assert_same(outputs(net), expected)
    assert 'a' in fused.new_biases


def test_blocks_that_are_no_layers_keep_their_bias():
    net = nn.Sequential(randomize(ODBBlock(4, 4, act_cfg=None)), randomize(nn.BatchNorm2d(4))).double().eval()
    expected, mean = outputs(net), net[1].running_mean.clone()
    assert fuse_checked(net, outputs).new_biases == []
    assert_same(outputs(net), expected)
    assert torch.equal(net[1].running_mean, mean) and net[0].reparam.bias is not None


def test_without_having_watched_every_bias_stays():
    net = Net(chain)
    expected = outputs(net)
    assert fuse_model(net) == ['a', 'b']
    assert_same(outputs(net), expected)


def test_folding_by_hand():
    conv, norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)
    conv.bias.data = torch.tensor([1.0, -2.0])
    norm.running_mean.copy_(torch.tensor([0.5, 0.5]))
    net = nn.ModuleDict(dict(conv=conv, norm=norm))
    assert fold_biases(net, ['conv'], dict(conv=['norm'])) == []
    assert conv.bias is None and norm.running_mean.tolist() == [-0.5, 2.5]


def test_in_training_mode_a_folded_bias_makes_no_difference():
    net = Net(chain)
    with_bias, folded = copy.deepcopy(net), net
    fuse_model(with_bias)
    fuse_checked(folded, outputs)
    assert_same(outputs(folded.train()), outputs(with_bias.train()))


def test_a_searched_net_folds_what_its_active_branches_add_up_to():
    net = Net(chain)
    net.a.set_active([name in ('skip', '1x1_avg') for name in net.a.candidates])
    expected = outputs(net)
    fuse_checked(net, outputs)
    assert_same(outputs(net), expected)


# ---------------------------------------------------------------- blocks that no forward shows


class WithAuxiliary(nn.Module):
    """A head that only a loss calls, as mmseg's `auxiliary_head`, beside a network."""

    def __init__(self, auxiliary, conv=ODBBConv2d):
        super().__init__()
        self.net, self.auxiliary = Net(chain, conv), auxiliary

    def forward(self, x):
        return self.net(x)


def conv_module(**options):
    return ConvModule(4, 4, 3, padding=1, **dict(norm_cfg=dict(type='BN'), conv_cfg=dict(type='ODBBConv2d')) | options)


class OtherForward(ConvModule):
    def forward(self, x):
        return self.norm(torch.relu(self.conv(x)))


def block():
    return ODBBConv2d(4, 4, 3, padding=1, bias=False)


@pytest.mark.parametrize(
    'layer',
    [
        conv_module(),
        conv_module(act_cfg=None),
        nn.Sequential(block(), nn.BatchNorm2d(4)),
        mmengine.model.Sequential(nn.ReLU(), block(), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(nn.Sequential(conv_module()), nn.ReLU()),
        nn.Sequential(nn.Sequential(conv_module(order=('norm', 'act', 'conv'), bias=False)), nn.BatchNorm2d(4)),
        nn.Sequential(conv_module(norm_cfg=None, act_cfg=None, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
    ],
    ids=['ConvModule', 'no activation', 'Sequential', "mmengine's", 'inside', 'norm behind the layer', 'conv alone'],
)
def test_a_layer_that_no_forward_calls_says_which_norm_follows(layer):
    net = WithAuxiliary(randomize(layer).double().eval()).eval()
    expected = net.auxiliary(x).detach()
    assert fuse_checked(net, outputs).new_biases == []
    assert_same([net.auxiliary(x).detach()], [expected])
    assert not any(module.bias is not None for module in net.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize(
    'layer',
    [
        conv_module(norm_cfg=None, bias=False),
        conv_module(norm_cfg=dict(type='GN', num_groups=2)),
        conv_module(order=('norm', 'act', 'conv'), bias=False),
        conv_module(order=('conv', 'act', 'norm')),
        OtherForward(4, 4, 3, padding=1, norm_cfg=dict(type='BN'), conv_cfg=dict(type='ODBBConv2d')),
        nn.Sequential(block(), nn.ReLU(), nn.BatchNorm2d(4)),
        nn.Sequential(conv_module(norm_cfg=None, bias=False), nn.BatchNorm2d(4)),
        nn.ModuleList([block(), nn.BatchNorm2d(4)]),
    ],
    ids=[
        'none',
        'group norm',
        'pre-activation',
        'activation between',
        'own forward',
        'ReLU between',
        'act behind',
        'a list',
    ],
)
def test_a_layer_that_no_forward_calls_keeps_its_bias_otherwise(layer):
    net = WithAuxiliary(randomize(layer).double().eval()).eval()
    fused = fuse_checked(net, outputs)
    assert len(fused.new_biases) == 1 and fused.new_biases[0] in fused.note_on_biases()


def test_a_norm_that_a_forward_shows_elsewhere_takes_no_bias_by_structure():
    net = WithAuxiliary(conv_module(), ODBBConv2d)
    net.forward = lambda x: net.net.connect(net.net, net.auxiliary.norm(x.float()).double())
    assert fuse_checked(net.eval(), outputs).new_biases == ['auxiliary.conv']
