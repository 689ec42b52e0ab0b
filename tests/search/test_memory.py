"""The memory constraint counts what autograd really keeps, and changes nothing by counting."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from repnas_mm.models import ODBBConv2d, ODBBlock
from repnas_mm.search.memory import BlockMemory, block_bytes, parse_bytes


@pytest.mark.parametrize(
    'size, expected',
    [
        (12345, 12345),
        ('1B', 1),
        ('500MB', 500_000_000),
        ('500 MB', 500_000_000),
        ('2KB', 2000),
        ('2KiB', 2048),
        ('3GB', 3_000_000_000),
        ('6GiB', 6 * 1024**3),
        (' 1.5GiB ', 1_610_612_736),
        ('0.5KiB', 512),
    ],
)
def test_a_size_is_bytes_or_a_number_with_a_unit(size, expected):
    assert parse_bytes(size) == expected


@pytest.mark.parametrize(
    'size', ['abc', '', '6', 'GiB', '0', '0GiB', '-1GiB', '6gb', '6GiB!', 0, -1, True, 1.5, None, b'6GiB']
)
def test_anything_else_is_no_size_and_is_said_so(size):
    with pytest.raises(ValueError) as e:
        parse_bytes(size)
    assert repr(size) in str(e.value)
    assert "'6GiB'" in str(e.value) and str(e.value).endswith('.')


@pytest.mark.parametrize('size', ['0.4B', '0.0001KB', '9' * 400 + 'GiB'])
def test_a_size_that_is_no_number_of_bytes_is_refused(size):
    with pytest.raises(ValueError, match='is not a size'):
        parse_bytes(size)


def really_saved(block: nn.Module, x: torch.Tensor, kept: tuple[int, ...]) -> int:
    """What the allocator has given out and not got back when one real training forward is over, but for its output."""
    block = deepcopy(block).train()
    block.set_active([j in kept for j in range(len(block.candidates))])
    x.requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        graph = block(x).grad_fn
    assert graph is not None
    return sum(event.self_cpu_memory_usage for event in profiler.key_averages())


SHAPES = {
    'same': dict(in_channels=8, out_channels=8),
    'shared': dict(in_channels=8, out_channels=8, share_weights=True),
    'wider, strided': dict(in_channels=8, out_channels=16, stride=2),
    'grouped 5x5': dict(in_channels=8, out_channels=8, kernel_size=5, groups=2),
    'dilated': dict(in_channels=8, out_channels=8, dilation=2),
    'no activation': dict(in_channels=6, out_channels=6, act_cfg=None),
    'activation not in place': dict(in_channels=8, out_channels=8, act_cfg=dict(type='ReLU')),
    'recomputed': dict(in_channels=8, out_channels=8, with_cp=True),
}


ALL_SHAPES = [(0,), (1,), (0, 3), (2,), (1, 3, 4), (0, 1, 2, 3, 4, 5)]
WITH_SKIP = [(6,), (0, 1, 2, 3, 4, 5, 6)]


@pytest.mark.parametrize(
    'shape, kept',
    [(shape, kept) for shape in SHAPES for kept in ALL_SHAPES + (WITH_SKIP if shape != 'wider, strided' else [])],
)
def test_saved_bytes_are_what_a_real_forward_saves(shape, kept):
    torch.manual_seed(0)
    block = ODBBlock(**SHAPES[shape])
    x = torch.randn(4, block.in_channels, 24, 24)
    expected = really_saved(block, x, kept)
    assert block_bytes(block, tuple(x.shape), x.dtype, kept) == pytest.approx(expected, rel=0.01, abs=64)


def test_branches_that_share_a_convolution_do_not_add_up():
    def cost(*kept):
        return block_bytes(ODBBlock(8, 8), (4, 8, 24, 24), torch.float32, kept)

    feature_map = 4 * 8 * 24 * 24 * 4
    shared = cost(0) + cost(3) - cost(0, 3)
    assert shared > 0.9 * feature_map
    assert abs(cost(1) + cost(4) - cost(1, 4)) <= 1.1 * feature_map  # only the activation's output, counted twice


def test_half_precision_takes_half():
    sizes = [block_bytes(ODBBlock(8, 8), (4, 8, 32, 32), dtype, (0, 1)) for dtype in (torch.float32, torch.float16)]
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.01)


def test_counting_leaves_the_block_as_it_was():
    torch.manual_seed(0)
    block = ODBBlock(8, 8)
    block.set_active([True, False, True, False, False, False, True])
    block(torch.randn(2, 8, 8, 8)).sum().backward()
    block.eval()
    state, grads = deepcopy(block.state_dict()), {n: p.grad for n, p in block.named_parameters()}
    random_state = torch.get_rng_state()
    block_bytes(block, (4, 8, 16, 16), torch.float16, (1, 4))
    after = block.state_dict()
    assert state.keys() == after.keys()
    assert all(torch.equal(state[key], after[key]) and state[key].dtype == after[key].dtype for key in state)
    assert all(p.grad is grads[n] for n, p in block.named_parameters())
    assert block.active_branches == ('1x1', '1x1_kxk', 'skip')
    assert not block.training
    assert torch.equal(random_state, torch.get_rng_state())


def test_the_answer_does_not_depend_on_the_blocks_present_state():
    block = ODBBlock(8, 8)
    fresh = block_bytes(block, (4, 8, 16, 16), torch.float32, (1, 4))
    block.set_active([False] * 6 + [True])
    block.eval()
    assert block_bytes(block, (4, 8, 16, 16), torch.float32, (1, 4)) == fresh


def test_the_answer_does_not_depend_on_whether_autograd_is_on():
    block = ODBBlock(8, 8)
    expected = block_bytes(block, (4, 8, 16, 16), torch.float32, (1, 4))
    with torch.no_grad():
        assert block_bytes(block, (4, 8, 16, 16), torch.float32, (1, 4)) == expected


def test_sync_bn_is_counted_without_a_process_group():
    block = ODBBlock(8, 8, norm_cfg=dict(type='SyncBN'))
    plain = ODBBlock(8, 8)
    assert block_bytes(block, (4, 8, 16, 16), torch.float32, (0, 1)) == block_bytes(
        plain, (4, 8, 16, 16), torch.float32, (0, 1)
    )


def test_each_block_of_a_model_is_counted_as_itself():
    """Answers are remembered, so blocks that differ in anything that matters must not be taken for one another."""
    x = ((4, 8, 16, 16), torch.float32)
    blocks = [
        ODBBlock(8, 8),
        ODBBlock(8, 8, share_weights=True),
        ODBBlock(8, 16),
        ODBBlock(8, 8, stride=2),
        ODBBlock(8, 8, kernel_size=5),
        ODBBlock(8, 8, act_cfg=None),
        ODBBConv2d(8, 8, 3),
        ODBBConv2d(8, 8, 3, adaptive_padding=True),
    ]
    memory = BlockMemory(blocks, [[x]] * len(blocks))
    for _ in range(2):
        for kept in [(0,), (0, 3), (1, 2, 3)]:
            assert [memory(i, kept) for i in range(len(blocks))] == [block_bytes(b, *x, kept) for b in blocks]


def test_a_recomputed_block_is_not_taken_for_one_that_is_not():
    x = ((4, 8, 16, 16), torch.float32)
    blocks = [ODBBlock(8, 8), ODBBlock(8, 8, with_cp=True)]
    memory = BlockMemory(blocks, [[x]] * 2)
    assert [memory(i, (0, 1)) for i in range(2)] == [block_bytes(b, *x, (0, 1)) for b in blocks]


def test_a_block_that_is_called_several_times_saves_for_each_call():
    block, levels = ODBBlock(8, 8), [((2, 8, side, side), torch.float32) for side in (32, 16, 16, 8)]
    inputs = [torch.rand(shape) for shape, _ in levels]
    memory = BlockMemory([block], [levels])
    expected = sum(really_saved(block, x, (0, 1)) for x in inputs)
    assert memory(0, (0, 1)) == pytest.approx(expected, rel=0.01, abs=64)
