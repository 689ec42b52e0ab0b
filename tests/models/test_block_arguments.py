"""What a block may be built with, and one clear sentence for everything else."""

import pytest
import torch
from blocks import make_block, make_image
from torch import nn

from repnas_mm.models import ODBBlock


def assert_one_sentence(error):
    message = str(error.value)
    assert message.endswith('.') and '\n' not in message and '. ' not in message, message


def test_candidates_are_seven_and_skip_exists_only_at_stride_1_and_in_equal_to_out():
    six = ('1x1', 'kxk', '1x1_kxk', '1x1_avg', '1xk', 'kx1')
    assert ODBBlock(8, 8).candidates == (*six, 'skip')
    assert ODBBlock(8, 8, stride=2).candidates == six
    assert ODBBlock(8, 16).candidates == six


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('kernel_size', [3, 5, 7])
def test_output_size_is_the_input_size_divided_by_stride_rounded_up(kernel_size, stride):
    block = ODBBlock(4, 6, kernel_size, stride)
    for name in block.candidates:
        block.set_active([name == other for other in block.candidates])
        assert block(torch.randn(2, 4, 9, 8)).shape == (2, 6, -(-9 // stride), -(-8 // stride)), name


@pytest.mark.parametrize('norm_cfg', [dict(type='BN'), dict(type='SyncBN'), dict(type='BN', eps=1e-3, momentum=0.01)])
def test_batch_norms_fuse_with_their_own_eps(norm_cfg):
    block = make_block(norm_cfg=norm_cfg).eval()
    norm = block.branches['kxk'].norm
    assert isinstance(norm, nn.SyncBatchNorm if norm_cfg['type'] == 'SyncBN' else nn.BatchNorm2d)
    assert norm.eps == norm_cfg.get('eps', 1e-5)
    x = make_image(2, 4, 6, 7)
    expected = block(x)
    block.switch_to_deploy()
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


def test_norm_cfg_can_freeze_the_norms():
    block = ODBBlock(4, 4, norm_cfg=dict(type='BN', requires_grad=False))
    assert not block.branches['1x1_avg'].norm.weight.requires_grad
    assert not block.branches['1x1_avg'].inner_norm.bias.requires_grad


@pytest.mark.parametrize(
    'norm_cfg, what',
    [
        (dict(type='GN', num_groups=2), 'builds a GroupNorm, which cannot be fused'),
        (dict(type='IN'), 'builds a InstanceNorm2d, which cannot be fused'),
        (dict(type='BN', affine=False), 'leave affine and track_running_stats at True'),
        (dict(type='BN', track_running_stats=False), 'leave affine and track_running_stats at True'),
    ],
)
def test_norms_that_cannot_be_fused_are_refused(norm_cfg, what):
    with pytest.raises(ValueError, match=what) as error:
        ODBBlock(4, 4, norm_cfg=norm_cfg)
    assert_one_sentence(error)


def test_act_cfg_is_applied_to_the_sum():
    x = make_image(2, 4, 6, 7)
    plain = make_block().eval()(x)
    for act_cfg, function in (
        (None, nn.Identity()),
        (dict(type='ReLU', inplace=True), nn.ReLU()),
        (dict(type='Sigmoid'), nn.Sigmoid()),
        (dict(type='SiLU'), nn.SiLU()),
    ):
        torch.testing.assert_close(make_block(act_cfg=act_cfg).eval()(x), function(plain))
    assert isinstance(ODBBlock(4, 4).act, nn.ReLU)


@pytest.mark.parametrize('kernel_size', [0, 1, 2, 4, -3, 3.0, (3, 3), '3'])
def test_the_kernel_is_odd_and_at_least_3(kernel_size):
    with pytest.raises(ValueError, match='odd integer of at least 3') as error:
        ODBBlock(4, 4, kernel_size=kernel_size)
    assert_one_sentence(error)


@pytest.mark.parametrize('channels, groups', [((4, 6), 4), ((6, 4), 4), ((3, 3), 2)])
def test_groups_divide_the_channels(channels, groups):
    with pytest.raises(ValueError, match=f'groups={groups} must divide in_channels={channels[0]}') as error:
        ODBBlock(*channels, groups=groups)
    assert_one_sentence(error)


@pytest.mark.parametrize(
    'shape, branches, kind, what',
    [
        ({}, ('kxk', '3x3'), ValueError, "Unknown branch '3x3'; known branches are 1x1, kxk,"),
        ({}, ('kxk', 3), ValueError, 'Unknown branch 3;'),
        ({}, (), ValueError, 'at least one branch'),
        ({}, [], ValueError, 'at least one branch'),
        ({}, 'kxk', TypeError, "must be a sequence of names, got the string 'kxk'"),
        (dict(stride=2), ('kxk', 'skip'), ValueError, "'skip' does not exist in a block with .*stride=2"),
        (dict(out_channels=8), ('skip',), ValueError, "'skip' does not exist in a block with .*out_channels=8"),
    ],
)
def test_branches_that_cannot_be_are_refused(shape, branches, kind, what):
    arguments = dict(in_channels=4, out_channels=4) | shape
    with pytest.raises(kind, match=what) as error:
        ODBBlock(**arguments, branches=branches)
    assert_one_sentence(error)
    with pytest.raises(kind, match=what):
        ODBBlock(**arguments).switch_to_subnet(branches)


@pytest.mark.parametrize('active', [[False] * 7, [True] * 6, [True] * 8, []])
def test_set_active_takes_one_bool_a_candidate_and_at_least_one_true(active):
    block = ODBBlock(4, 4)
    with pytest.raises(ValueError, match='one bool for each of 1x1, kxk') as error:
        block.set_active(active)
    assert_one_sentence(error)
    assert block.active_branches == block.candidates and block.active.all()


@pytest.mark.parametrize('form', [dict(branches=('kxk', '1x1')), dict(deploy=True)], ids=['subnet', 'deploy'])
def test_set_active_is_for_search_form_and_leaves_other_forms_as_they_are(form):
    block = ODBBlock(4, 4, **form)
    x = torch.randn(2, 4, 6, 7)
    expected = block(x)
    with pytest.raises((ValueError, RuntimeError)) as error:
        block.set_active([True] * 7)
    assert_one_sentence(error)
    assert torch.equal(block(x), expected)


def test_branches_may_be_any_iterable_of_names():
    for branches in (['kxk', 'skip'], ('kxk', 'skip'), {'kxk', 'skip'}, iter(('kxk', 'skip'))):
        assert ODBBlock(4, 4, branches=branches).active_branches == ('kxk', 'skip')


def test_the_text_of_a_block_says_its_form():
    block = ODBBlock(4, 4)
    assert 'form=search' in repr(block)
    block.switch_to_subnet(('kxk', '1x1'))
    assert 'form=subnet' in repr(block)
    block.switch_to_deploy()
    assert 'form=deploy' in repr(block)
