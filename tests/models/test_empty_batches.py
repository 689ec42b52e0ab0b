"""A batch without content, as of a mask head without positives, and one value a channel: as torch's BN takes them."""

import copy

import pytest
import torch
from blocks import make_block, make_image, mask_of, relative_error
from torch import nn

from repnas_mm.models import ODBBConv2d, norm
from repnas_mm.models.fast import without

BLOCKS = {
    'same': dict(),
    'shared': dict(share_weights=True),
    'stride': dict(stride=2),
    'stride, wider': dict(out_channels=40, stride=2),
    'shared, stride': dict(stride=2, share_weights=True),
    'groups': dict(groups=2, stride=2),
    'stem': dict(in_channels=1, out_channels=20, stride=2),
    'shared stem': dict(in_channels=1, out_channels=20, stride=2, share_weights=True),
    'stem of the main branch': dict(in_channels=1, out_channels=20, branches=('kxk',)),
    'recomputed': dict(stride=2, with_cp=True),
}
blocks = pytest.mark.parametrize('arguments', BLOCKS.values(), ids=BLOCKS)


def images(block, count, size=8):
    return torch.zeros(count, block.in_channels, size, size, dtype=torch.float64)


def state(block):
    return {key: value.clone() for key, value in block.state_dict().items() if 'num_batches' not in key}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@blocks
def test_an_empty_batch_passes_and_teaches_nothing(arguments):
    block = make_block(**arguments).train()
    before = state(block)
    x = images(block, 0).requires_grad_()
    y = block(x)
    assert y.shape == (0, block.out_channels, *[8 // block.stride] * 2)
    y.sum().backward()
    assert_equal(state(block), before)
    assert all(p.grad is None or (p.grad == 0).all() for p in block.parameters())
    assert block.eval()(images(block, 0)).shape == y.shape


@blocks
def test_one_value_a_channel_is_refused(arguments):
    block = make_block(**arguments).train()
    before = state(block)
    with pytest.raises(ValueError, match='Expected more than 1 value per channel when training'):
        block(images(block, 1, 1))
    assert_equal(state(block), before)
    block.eval()(images(block, 1, 1))


@pytest.mark.parametrize('name', ['same', 'shared', 'stride', 'stem'])
def test_a_warm_start_waits_for_content(name):
    block = make_block(**BLOCKS[name]).train()
    shape = (block.out_channels, block.in_channels, 3, 3)
    block.load_state_dict(dict(weight=torch.randn(shape).double(), bias=torch.randn(shape[0]).double()))
    other = copy.deepcopy(block)
    block(images(block, 0))
    assert block.warm_started
    with pytest.raises(ValueError, match='Expected more than 1 value'):
        block(images(block, 1, 1))
    x = make_image(2, block.in_channels, 8, 8)
    assert torch.equal(block(x), other(x)) and not block.warm_started
    assert_equal(state(block), state(other))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('arguments', [dict(), dict(stride=2), dict(groups=2), dict(in_channels=1, out_channels=20)])
def test_absorbing_without_content_keeps_what_eval_mode_computes(arguments, training):
    block = make_block(**arguments).train(training)
    leaving = [name for name in block.candidates if name not in ('kxk', '1xk')]
    x = make_image(2, block.in_channels, 8, 8)
    expected = copy.deepcopy(block).eval()(x)
    block.absorb(leaving, images(block, 0))
    assert relative_error(block.eval()(x), expected) < 1e-10
    assert all(value.isfinite().all() for value in block.state_dict().values())


def test_the_variance_behind_is_that_of_independent_branches():
    """Behind one that adds nothing it is the main branch's own."""
    block = make_block().train()
    block.set_active(mask_of(block, ['kxk', '1x1']))
    nn.init.zeros_(block.branches['1x1'].norm.weight)
    before = state(block)
    block.absorb(['1x1'], images(block, 0))
    torch.testing.assert_close(state(block)['branches.kxk.norm.running_var'], before['branches.kxk.norm.running_var'])


def test_moments_of_ranks_weigh_by_their_content(monkeypatch):
    """One rank empty, one full, one with less: the moments of all values together."""
    parts = [make_image(0, 3, 4, 4), make_image(2, 3, 8, 8), make_image(1, 3, 4, 4, seed=3)]
    sent = []
    monkeypatch.setattr(norm, 'all_reduce', lambda tensor: sent.append(tensor.clone()))
    for part in parts:
        norm.batch_moments(part)
    values = torch.cat([part.movedim(1, 0).flatten(1) for part in parts], 1)
    for part in parts:
        monkeypatch.setattr(norm, 'all_reduce', lambda tensor: tensor.copy_(sum(sent)))
        mean, var = norm.batch_moments(part)
        torch.testing.assert_close(mean, values.mean(1))
        torch.testing.assert_close(var, values.var(1, correction=0))


def test_padding_larger_than_the_window_hides_no_single_value():
    """The inner BNs see one pixel although the last ones see nine."""
    conv = ODBBConv2d(1, 20, 3, padding=2).double().train()
    if isinstance(conv, nn.Conv2d):
        return  # not eligible
    with pytest.raises(ValueError, match='Expected more than 1 value'):
        conv(torch.zeros(1, 1, 1, 1, dtype=torch.float64))


@blocks
def test_fast_paths_and_plain_ones_agree_for_two_values(arguments):
    block = make_block(**arguments).train()
    x = torch.randn(2, block.in_channels, 1, 1, dtype=torch.float64)
    plain = copy.deepcopy(block)
    with without('stem', 'strided'):
        expected = plain(x)
    assert relative_error(block(x), expected) < 1e-9
