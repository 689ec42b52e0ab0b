"""The gate z of Eq. 12 and 13: nothing in the forward pass, Z(1 - Z)/λ in the backward pass."""

import copy

import pytest
import torch
from blocks import make_block, make_image, mask_of, masks
from reference import Reference

from repnas_mm.search.sampler import gates


def noise_for(block, seed=0):
    u = torch.rand(len(block.candidates), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (u / (1 - u)).log().to(block.alpha.dtype)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_z_is_exactly_one_for_any_alpha_and_noise(dtype):
    extreme = torch.tensor([1e-30, 1e-8, 90.0, 1e4, -1e-30, -1e-8, -90.0, -1e4])
    alpha = torch.cat([extreme, torch.linspace(-20, 20, 401)]).to(dtype)
    for noise in (-30.0, -1.8, 0.0, 0.3, 30.0):
        for temperature in (0.1, 1.0, 10.0):
            z = gates(alpha, torch.full_like(alpha, noise), temperature)
            assert torch.equal(z, torch.ones_like(z)), (noise, temperature)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
@pytest.mark.parametrize('out_channels', [4, 48], ids=['block', 'stem'])
def test_gated_output_is_the_ungated_one_bit_for_bit(stride, share_weights, training, out_channels):
    original = make_block(4, out_channels, stride=stride, share_weights=share_weights, dtype=torch.float32)
    original.train(training)
    x = make_image(2, 4, 6, 7, dtype=torch.float32)
    for mask in masks(original)[::7]:
        gated, ungated = copy.deepcopy(original), copy.deepcopy(original)
        gated.set_active(mask, noise_for(gated), temperature=0.7)
        ungated.set_active(mask)
        assert torch.equal(gated(x), ungated(x)), gated.active_branches


@pytest.mark.parametrize('temperature', [0.5, 1.0, 3.0])
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
@pytest.mark.parametrize('out_channels', [4, 128], ids=['block', 'stem'])
def test_alpha_gradient_is_eq_12_and_exactly_zero_for_dropped_branches(
    out_channels, share_weights, training, temperature
):
    original = make_block(4, out_channels, kernel_size=5, share_weights=share_weights).train(training)
    x = make_image(3, 4, 6, 7)
    upstream = torch.randn(3, out_channels, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for mask in masks(original)[::9]:
        block, reference, noise = copy.deepcopy(original), Reference(original), noise_for(original)
        block.set_active(mask, noise, temperature)
        block(x).backward(upstream)

        outputs = reference.branches(x, block.active_branches, training)
        z = 1 / (1 + (-(reference.parameters['alpha'].detach() + noise) / temperature).exp())
        for j, name in enumerate(block.candidates):
            if name in outputs:
                expected = (upstream * outputs[name]).sum() * z[j] * (1 - z[j]) / temperature
                torch.testing.assert_close(block.alpha.grad[j], expected.detach(), rtol=1e-10, atol=1e-10)
            else:
                assert block.alpha.grad[j] == 0


def test_gates_leave_every_other_gradient_as_it_is():
    gated = make_block()
    ungated = copy.deepcopy(gated)
    mask = mask_of(gated, ('kxk', '1x1_kxk', '1x1_avg', 'skip'))
    gated.set_active(mask, noise_for(gated))
    ungated.set_active(mask)
    for block in (gated, ungated):
        block(make_image(2, 4, 6, 7)).square().sum().backward()
    for (name, p), q in zip(gated.named_parameters(), ungated.parameters()):
        if name == 'alpha':
            assert q.grad is None and (p.grad != 0).sum() == 4
        elif q.grad is None:
            assert p.grad is None
        else:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-12)


def test_the_gate_keeps_no_feature_map():
    saved = {}
    for noise in (None, torch.zeros(7, dtype=torch.float64)):
        block = make_block()
        block.set_active([True] * 7, noise)
        shapes = saved[noise is None] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, shapes=shapes: shapes.append(tuple(t.shape)) or t, lambda t: t
        ):
            block(make_image(2, 4, 6, 7))
    maps = {ungated: sorted(shape for shape in shapes if len(shape) == 4) for ungated, shapes in saved.items()}
    assert maps[True] == maps[False]


def test_a_block_that_was_never_searched_has_no_gates():
    block = make_block()
    assert block.active.tolist() == [True] * 7
    assert block.active_branches == block.candidates
    x = make_image(2, 4, 6, 7)
    expected = sum(Reference(block).branches(x, block.candidates, True).values())
    y = block(x)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    y.sum().backward()
    assert block.alpha.grad is None


@pytest.mark.parametrize('kept', [('1xk',), ('kxk', 'skip'), ('1x1', 'kxk', '1x1_avg', 'kx1')])
def test_before_a_normalized_block_branches_can_only_win_from_each_other(kept):
    """Euler: the loss does not change if z scales all of a block, so the gradients of its z add up to 0."""
    torch.manual_seed(0)
    norm_cfg = dict(type='BN', eps=1e-12)  # which is what keeps BN from being exactly invariant
    blocks = [make_block(8, 8, norm_cfg=norm_cfg, dtype=torch.float64).train() for _ in range(2)]
    head = torch.nn.Linear(8, 5).double()
    images, labels = make_image(16, 8, 6, 6), torch.arange(16) % 5
    for block in blocks:
        block.set_active(mask_of(block, kept), torch.zeros(len(block.candidates)))
    features = blocks[1](blocks[0](images)).mean((2, 3))
    torch.nn.functional.cross_entropy(5 * head(features), labels).backward()
    slopes = [block.alpha.sigmoid() * (1 - block.alpha.sigmoid()) for block in blocks]
    first, last = (block.alpha.grad / slope for block, slope in zip(blocks, slopes))
    assert abs(first.sum()) < 1e-3 * last.abs().sum()
    assert abs(last.sum()) > 0.1 * last.abs().max()  # while the last block scales the logits
    if len(kept) == 1:
        assert first.abs().max() < 1e-3 * last.abs().max()
    else:
        assert first.abs().max() > 1e-2 * last.abs().max()
