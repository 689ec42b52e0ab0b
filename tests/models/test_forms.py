"""A block's three forms (search, subnet, deploy): how it goes from one to the next and what a checkpoint holds."""

import copy

import pytest
import torch
from blocks import make_block, make_image, mask_of, randomize, relative_error
from torch import nn

from repnas_mm.models import ODBBlock

sharing = pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
KEPT = ('1x1', '1x1_kxk', 'skip')


def fresh(**kwargs):
    """An 4 -> 4 block with the state of its initialization."""
    return ODBBlock(4, 4, act_cfg=None, **kwargs).double().eval()


def in_model(block):
    return nn.ModuleDict(dict(neck=nn.ModuleList([block])))


@sharing
@pytest.mark.parametrize('form', [dict(), dict(branches=KEPT), dict(deploy=True)], ids=['search', 'subnet', 'deploy'])
def test_state_dict_goes_into_a_fresh_block_of_the_same_form(form, share_weights):
    block = randomize(fresh(share_weights=share_weights, **form))
    other = fresh(share_weights=share_weights, **form)
    x = make_image(2, 4, 6, 7)
    assert not torch.equal(other(x), block(x))
    other.load_state_dict(block.state_dict())
    assert torch.equal(other(x), block(x))


def test_a_search_checkpoint_brings_its_active_branches_along():
    block = make_block().eval()
    block.set_active(mask_of(block, KEPT))
    other = fresh()
    other.load_state_dict(copy.deepcopy(block.state_dict()))
    x = make_image(2, 4, 6, 7)
    assert other.active_branches == KEPT
    assert torch.equal(other(x), block(x))
    assert all(map(torch.equal, other.get_equivalent_kernel_bias(), block.get_equivalent_kernel_bias()))
    other.set_active([True] * 7)
    assert not torch.equal(other(x), block(x))


@sharing
def test_a_subnet_takes_its_part_of_a_search_checkpoint(share_weights):
    search, subnet = make_block(share_weights=share_weights).eval(), fresh(share_weights=share_weights, branches=KEPT)
    search.set_active(mask_of(search, KEPT))
    assert set(subnet.state_dict()) < set(search.state_dict())
    subnet.load_state_dict(search.state_dict())
    x = make_image(2, 4, 6, 7)
    assert torch.equal(subnet(x), search(x))


@sharing
def test_a_built_and_a_switched_subnet_have_the_same_state(share_weights):
    for names in (KEPT, ('kxk', '1x1_avg'), ('skip',)):
        switched = make_block(share_weights=share_weights)
        switched.switch_to_subnet(names)
        built = fresh(share_weights=share_weights, branches=names)
        built.load_state_dict(switched.state_dict())
        assert list(built.state_dict()) == list(switched.state_dict())
        assert switched.alpha is None and switched.active is None and not switched.searchable


def test_switch_to_subnet_keeps_the_active_branches_unless_told_others():
    block = make_block()
    block.set_active(mask_of(block, KEPT))
    other = copy.deepcopy(block)
    block.switch_to_subnet()
    other.switch_to_subnet(('kxk',))
    assert tuple(block.branches) == block.active_branches == KEPT
    assert tuple(other.branches) == other.active_branches == ('kxk',)


def test_branches_are_kept_in_one_order_whatever_order_they_are_given_in():
    block = fresh(branches=['skip', 'kxk', '1x1'])
    assert tuple(block.branches) == block.active_branches == ('1x1', 'kxk', 'skip')


def test_an_unfused_checkpoint_in_a_fused_model_is_an_error_that_names_the_block():
    model = in_model(fresh(deploy=True))
    for form in (dict(), dict(branches=KEPT)):
        with pytest.raises(ValueError, match=r"block 'neck\.0' unfused, but .* fused; build .* deploy=False\.$"):
            model.load_state_dict(in_model(fresh(**form)).state_dict(), strict=False)


@sharing
@pytest.mark.parametrize('form', [dict(), dict(branches=KEPT)], ids=['search', 'subnet'])
def test_a_checkpoint_of_other_sharing_is_an_error_that_says_what_to_set(form, share_weights):
    source, model = (in_model(fresh(share_weights=shared, **form)) for shared in (share_weights, not share_weights))
    what = rf"block 'neck\.0' has .*; build the model with share_weights={share_weights}\.$"
    with pytest.raises(ValueError, match=what):
        model.load_state_dict(source.state_dict(), strict=False)


def test_a_checkpoint_without_a_single_active_branch_is_an_error():
    block = fresh()
    state = copy.deepcopy(block.state_dict())
    state['active'].zero_()
    with pytest.raises(ValueError, match="'active' leaves the block without a branch"):
        block.load_state_dict(state)


def test_a_deep_copy_is_equal_and_independent():
    block = make_block().eval()
    block.set_active(mask_of(block, KEPT))
    x = make_image(2, 4, 6, 7)
    expected, clone = block(x), copy.deepcopy(block)
    assert torch.equal(clone(x), expected)
    clone.set_active([True] * 7)
    clone.switch_to_deploy()
    assert block.active_branches == KEPT
    assert torch.equal(block(x), expected)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16])
def test_switch_to_deploy_keeps_dtype_and_mode(dtype, training):
    block = make_block(dtype=dtype).train(training)
    block.switch_to_deploy()
    assert {p.dtype for p in block.parameters()} == {dtype}
    assert {module.training for module in block.modules()} == {training}


def test_switch_to_deploy_keeps_the_device():
    with torch.device('meta'):
        block = ODBBlock(4, 8, stride=2)
    block.switch_to_deploy()
    assert {p.device.type for p in block.parameters()} == {'meta'}


def test_switch_to_deploy_twice_is_switch_to_deploy():
    block = make_block()
    block.switch_to_deploy()
    convolution, state = block.reparam, copy.deepcopy(block.state_dict())
    block.switch_to_deploy()
    assert block.reparam is convolution and block.deploy
    assert all(torch.equal(value, state[key]) for key, value in block.state_dict().items())


def test_a_switched_and_a_built_deploy_form_have_the_same_state():
    switched, built = make_block().eval(), fresh(deploy=True)
    switched.switch_to_deploy()
    built.load_state_dict(switched.state_dict())
    x = make_image(2, 4, 6, 7)
    assert torch.equal(built(x), switched(x))
    assert list(built.state_dict()) == ['reparam.weight', 'reparam.bias']


def test_a_fused_block_trains_on_as_a_plain_convolution():
    block = make_block()
    block.switch_to_deploy()
    block(make_image(2, 4, 6, 7)).sum().backward()
    assert block.reparam.weight.grad is not None and block.reparam.bias.grad is not None


def test_a_fused_block_cannot_become_a_subnet_again():
    block = fresh(deploy=True)
    with pytest.raises(RuntimeError, match='no branches left'):
        block.switch_to_subnet(('kxk',))


def test_a_subnet_cannot_take_back_a_branch_it_dropped():
    block = fresh(branches=KEPT)
    with pytest.raises(ValueError, match="'kxk' is not among this subnet's 1x1, 1x1_kxk, skip"):
        block.switch_to_subnet(('kxk', 'skip'))


def test_stock_tools_find_switch_to_deploy_and_not_what_they_look_for_first():
    for form in (dict(), dict(branches=KEPT), dict(deploy=True)):
        for module in fresh(**form).modules():
            assert not hasattr(module, 'fuse') and not hasattr(module, 'reparameterize')


def test_a_frozen_block_is_not_searchable():
    block = make_block()
    assert block.searchable
    block.alpha.requires_grad_(False)
    assert not block.searchable


@sharing
def test_shared_branches_own_no_kernel_and_unshared_ones_share_none(share_weights):
    block = fresh(share_weights=share_weights)
    own = {name for name, branch in block.branches.items() if branch.weight is not None}
    assert own == (set() if share_weights else {'1x1', 'kxk', '1x1_kxk', '1x1_avg', '1xk', 'kx1'})
    assert (block.weight is not None) == share_weights
    assert (block.branches['1x1_kxk'].delta is None) == share_weights  # in = out: it inherits


@sharing
def test_the_first_1x1_starts_as_the_identity_where_it_cannot_inherit(share_weights):
    block = ODBBlock(4, 6, share_weights=share_weights)
    inner = block.branches['1x1_kxk'].pointwise_kernel(block.weight)
    assert torch.equal(inner[:, :, 0, 0], torch.eye(4))
    assert block.branches['1x1_kxk'].delta.weight.requires_grad


def test_initial_alphas_are_small_and_differ():
    alpha = fresh().alpha
    assert alpha.abs().max() < 0.01 and len(alpha.unique()) == 7


def test_fusing_at_float32_is_within_tolerance_at_initialization():
    block = ODBBlock(16, 16).eval()
    x = torch.randn(2, 16, 8, 8)
    expected = block(x)
    block.switch_to_deploy()
    assert relative_error(block(x), expected) <= 1e-5
