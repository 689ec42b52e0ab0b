"""Code of others walks parameters by convention: every weight of a block is the weight or bias of a module."""

import pytest
import torch
from blocks import make_block
from torch import nn

from repnas_mm.models import ODBBConv2d

BLOCKS = {
    'search': dict(),
    'shared': dict(share_weights=True),
    'shared, wider': dict(out_channels=8, share_weights=True),
    'subnet': dict(branches=('1x1_kxk', '1x1_avg', 'skip')),
    'stride': dict(stride=2, groups=2),
    'deploy': dict(deploy=True),
}


def collected(model):
    """As mmyolo's YOLOv5OptimizerConstructor collects parameters."""
    found = set()
    for module in model.modules():
        if isinstance(getattr(module, 'bias', None), nn.Parameter):
            found.add(module.bias)
        if isinstance(getattr(module, 'weight', None), nn.Parameter):
            found.add(module.weight)
    return found


@pytest.mark.parametrize('arguments', BLOCKS.values(), ids=BLOCKS)
def test_a_walk_over_weights_and_biases_finds_all_but_alpha(arguments):
    block = make_block(**arguments)
    assert {name for name, p in block.named_parameters() if p not in collected(block)} <= {'alpha'}


@pytest.mark.parametrize('kind', ['block', 'conv'])
def test_a_checkpoint_with_the_old_name_loads(kind):
    block = make_block() if kind == 'block' else ODBBConv2d(4, 4, 3, padding=1)
    nn.init.normal_(block.branches['1x1_kxk'].delta.weight)
    state = block.state_dict()
    old = {key.replace('delta.weight', 'delta'): value for key, value in state.items()}
    assert old.keys() != state.keys()
    new = nn.Sequential(make_block() if kind == 'block' else ODBBConv2d(4, 4, 3, padding=1))
    new.load_state_dict({f'0.{key}': value for key, value in old.items()})
    assert all(torch.equal(value, state[key]) for key, value in new[0].state_dict().items())


def test_parameters_keep_their_order_so_that_older_optimizer_states_fit():
    names = [name for name, _ in make_block().branches['1x1_kxk'].named_parameters()]
    assert names == ['weight', 'delta.weight', 'norm.weight', 'norm.bias', 'inner_norm.weight', 'inner_norm.bias']
