"""The protocol of a block is all that search, fusing and export use; `find_blocks` settles shared convolutions."""

import copy
from pathlib import Path

import pytest
import torch
from mmcv.cnn import build_activation_layer
from mmengine.registry import MODELS
from torch import nn
from torch.nn.functional import pad

from repnas_mm.engine.checkpoint import load_file
from repnas_mm.models import ODBBConv2d, ODBBlock
from repnas_mm.search import Block, ConvolutionBlock, Genotype, find_blocks
from repnas_mm.search.block import is_block, is_convolution_block


def members(protocol) -> set[str]:
    own = {name for name in [*vars(protocol), *protocol.__annotations__] if not name.startswith('_')}
    return own.union(*(members(base) for base in protocol.__bases__ if base.__name__.endswith('Block')))


@pytest.mark.parametrize(
    ('block', 'protocol'),
    [
        (ODBBlock(4, 4), Block),
        (ODBBlock(4, 4, branches=('kxk', 'skip')), Block),
        (ODBBConv2d(4, 4, 3, padding=1), ConvolutionBlock),
    ],
    ids=['search', 'subnet', 'convolution'],
)
def test_ours_follow_it(block, protocol):
    assert is_block(block) and is_convolution_block(block) is (protocol is ConvolutionBlock)
    assert not [name for name in members(protocol) if not hasattr(block, name)]


@MODELS.register_module()
class TwoConvolutions(nn.Module):
    """A block from nothing: one or two convolutions, and nothing public beyond the protocol."""

    candidates = ('1x1', 'kxk')
    share_weights = False

    def __init__(self, channels: int):
        super().__init__()
        self._channels = channels
        self._convs = nn.ModuleDict(
            {'1x1': nn.Conv2d(channels, channels, 1), 'kxk': nn.Conv2d(channels, channels, 3, padding=1)}
        )
        self.alpha = nn.Parameter(torch.zeros(2))
        self.register_buffer('active', torch.ones(2, dtype=torch.bool))
        self.active_branches, self.deploy = self.candidates, False

    @property
    def searchable(self):
        return self.alpha is not None

    def set_active(self, active):
        self.active.copy_(torch.as_tensor(active))
        self.active_branches = tuple(name for name, kept in zip(self.candidates, active) if kept)

    def gate_gradients(self):
        return self._gates.grad

    def forward(self, x):
        if self.deploy:
            return self._fused(x)
        self._gates = torch.ones(2, requires_grad=True)
        gates = dict(zip(self.candidates, self._gates))
        return sum(gates[name] * self._convs[name](x) for name in self.active_branches)

    def switch_to_subnet(self, branches=None):
        self.active_branches = tuple(branches or self.active_branches)
        self._convs = nn.ModuleDict({name: self._convs[name] for name in self.active_branches})
        self.alpha = self.active = None

    def switch_to_deploy(self):
        self._fused = nn.Conv2d(self._channels, self._channels, 3, padding=1)
        convs = [self._convs[name] for name in self.active_branches]
        self._fused.weight.data = sum(pad(c.weight.data, [1 - c.padding[0]] * 4) for c in convs)
        self._fused.bias.data = sum(c.bias.data for c in convs)
        self._convs = self.alpha = self.active = None
        self.deploy = True


@MODELS.register_module()
class ForeignBackbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = TwoConvolutions(1), TwoConvolutions(1)
        self.act = build_activation_layer(dict(type='ReLU'))

    def forward(self, x):
        return (self.act(self.second(self.act(self.first(x)))),)


def test_a_block_of_nothing_but_the_protocol_is_searched_exported_and_fused(small_cfg, run):
    small_cfg.model.backbone = dict(type='ForeignBackbone')
    small_cfg.model.head.in_channels = 1
    small_cfg.custom_hooks[0].num_branches = 3
    folder = Path(run(small_cfg).work_dir)
    genotype = Genotype.load(folder / 'genotype.json')
    assert list(genotype) == ['backbone.first', 'backbone.second'] and genotype.num_branches == 3
    assert 'backbone.first._fused.weight' in load_file(folder / 'fused.pth')['state_dict']


# ------------------------------------------------------------------------ convolutions used under several names


class TwoLevels(nn.Module):
    """Two levels of one convolution, each with a norm of its own, and a last convolution."""

    def __init__(self, conv):
        super().__init__()
        shared = conv(3, 4, 3, padding=1)
        self.levels = nn.ModuleList(nn.Sequential(shared, nn.BatchNorm2d(4)) for _ in range(2))
        self.last = conv(4, 4, 3, padding=1)

    def forward(self, x):
        return [self.last(level(x)) for level in self.levels]


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr('repnas_mm.search.block.print_log', lambda line, logger: lines.append(line))
    return lines


@pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
@pytest.mark.parametrize('bias', [True, False])
def test_a_shared_block_becomes_plain_on_the_parameter_that_an_optimizer_holds(log, share_weights, bias):
    model = TwoLevels(lambda *a, **k: ODBBConv2d(*a, **dict(k, bias=bias), share_weights=share_weights))
    shared = model.levels[0][0]
    weight = shared.kernel if share_weights else shared.branches['kxk'].weight
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert list(find_blocks(model)) == ['last']
    assert model.levels[0][0] is model.levels[1][0] is shared and type(shared) is nn.Conv2d
    assert shared.weight is weight and (shared.bias is not None) == bias
    assert len(log) == 1 and 'it stays plain.' in log[0]
    before = [p.detach().clone() for p in shared.parameters()]
    sum(y.square().sum() for y in model(torch.randn(2, 3, 8, 8))).backward()
    optimizer.step()
    assert not torch.equal(shared.weight, before[0])
    assert list(find_blocks(model)) == ['last'] and len(log) == 1  # nothing left to do or say


def test_a_shared_block_that_loaded_stock_weights_is_that_convolution(log):
    torch.manual_seed(0)
    stock, model = (TwoLevels(conv).double().eval() for conv in (nn.Conv2d, ODBBConv2d))
    model.load_state_dict(stock.state_dict())
    find_blocks(model)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for got, expected in zip(model(x), stock(x)):
        assert (got - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_a_model_without_shared_blocks_is_left_alone(log):
    model = nn.Sequential(*(ODBBConv2d(3, 3, 3, padding=1) for _ in range(2)))
    before = copy.copy([*model])
    assert list(find_blocks(model)) == ['0', '1'] and [*model] == before and not log


def test_names_are_in_the_models_own_order_in_any_form():
    model = nn.Sequential(ODBBlock(4, 4), nn.ReLU(), nn.Sequential(ODBBlock(4, 4, deploy=True)))
    assert list(find_blocks(model)) == ['0', '2.0']
