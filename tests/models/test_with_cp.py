"""``with_cp`` recomputes a block in backward: less memory, everything else the same."""

import copy
import gc

import pytest
import torch
from blocks import make_block, make_image, masks


def pair(**kwargs):
    """The same block without and with recomputation."""
    plain, recomputing = make_block(**kwargs), make_block(with_cp=True, **kwargs)
    recomputing.load_state_dict(plain.state_dict())
    return plain, recomputing


def step(block, images):
    """Outputs and input gradients of one backward through all ``images``."""
    images = [image.clone().requires_grad_() for image in images]
    outputs = [block(image) for image in images]
    sum((y * y.detach().cos()).sum() for y in outputs).backward()
    return [*outputs, *(image.grad for image in images)]


def assert_same(plain, recomputing, images):
    for got, expected in zip(step(recomputing, images), step(plain, images)):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for (name, p), q in zip(recomputing.named_parameters(), plain.parameters()):
        assert (p.grad is None) == (q.grad is None), name
        if q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-12)
    for (name, p), q in zip(recomputing.named_buffers(), plain.buffers()):
        assert torch.equal(p, q), name


@pytest.mark.parametrize('gated', [False, True], ids=['ungated', 'gated'])
@pytest.mark.parametrize('stride, dilation', [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
@pytest.mark.parametrize('out_channels', [4, 128], ids=['block', 'stem'])
def test_outputs_gradients_and_statistics_are_those_without(out_channels, share_weights, stride, dilation, gated):
    shape = dict(out_channels=out_channels, kernel_size=5, stride=stride, dilation=dilation)
    originals = pair(**shape, share_weights=share_weights)
    for mask in masks(originals[0])[::9]:
        plain, recomputing = copy.deepcopy(originals)
        for block in (plain, recomputing):
            block.set_active(mask, torch.linspace(-2, 2, len(mask), dtype=torch.float64) if gated else None)
        assert_same(plain, recomputing, [make_image(2, 4, 6, 7)])


def test_statistics_are_updated_once():
    plain, recomputing = pair()
    assert_same(plain, recomputing, [make_image(2, 4, 6, 7)])
    tracked = [b.item() for n, b in recomputing.named_buffers() if n.endswith('num_batches_tracked')]
    assert tracked == [1] * 9  # seven last BNs and two inner ones


def test_a_block_called_twice_before_backward_pads_each_call_with_its_own_border():
    assert_same(*pair(), [make_image(2, 4, 6, 7, seed=seed) for seed in range(3)])


def test_a_graph_may_be_walked_backward_twice():
    gradients = []
    for block in pair():
        x = make_image(2, 4, 6, 7).requires_grad_()
        y = block(x)
        losses = (y.square().sum(), y.cos().sum())
        gradients.append([torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in losses])
        tracked = [b.item() for n, b in block.named_buffers() if n.endswith('num_batches_tracked')]
        assert tracked == [1] * 9
    for got, expected in zip(*gradients):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_eval_mode_leaves_the_statistics_alone():
    plain, recomputing = pair()
    before = copy.deepcopy(dict(recomputing.named_buffers()))
    assert_same(plain.eval(), recomputing.eval(), [make_image(2, 4, 6, 7)])
    assert all(torch.equal(buffer, before[name]) for name, buffer in recomputing.named_buffers())


def test_fewer_bytes_are_kept_for_backward():
    kept = []
    for block in pair():
        storages = {}

        def pack(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = block(make_image(2, 4, 32, 32).requires_grad_())
        kept.append(sum(storages.values()))
        del y
    image = 2 * 4 * 32 * 32 * 8
    assert kept[1] <= 2 * image < 4 * image <= kept[0]


def test_a_checkpointed_block_holds_nothing_but_its_input_and_output():
    block = make_block(with_cp=True).train()
    x = make_image(2, 4, 6, 7).requires_grad_()
    gc.collect()
    before = {id(t) for t in gc.get_objects() if isinstance(t, torch.Tensor)}
    out = block(x)
    gc.collect()
    held = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and id(t) not in before]
    assert [t.shape for t in held if t.dim() == 4] == [out.shape]
