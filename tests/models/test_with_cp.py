"""``with_cp`` recomputes a block in backward: less memory, everything else the same."""

import copy
import gc

import pytest
import torch
from blocks import make_block, make_image, masks, randomize
from mmpretrain.models.backbones import ResNet
from torch.utils.checkpoint import checkpoint


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


@pytest.mark.parametrize('stride, dilation', [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
@pytest.mark.parametrize('out_channels', [4, 128], ids=['block', 'stem'])
def test_outputs_gradients_and_statistics_are_those_without(out_channels, share_weights, stride, dilation):
    shape = dict(out_channels=out_channels, kernel_size=5, stride=stride, dilation=dilation)
    originals = pair(**shape, share_weights=share_weights)
    for mask in masks(originals[0])[::9]:
        plain, recomputing = copy.deepcopy(originals)
        for block in (plain, recomputing):
            block.set_active(mask)
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


# ------------------------------------------------------------------------- checkpointing around a block, by other code


class Checkpointed(torch.nn.Module):
    """A block as stock ResNet's ``with_cp`` calls one: backward calls it again, and it is not told."""

    def __init__(self, block, use_reentrant):
        super().__init__()
        self.block, self.how = block, dict(use_reentrant=use_reentrant)

    def forward(self, x):
        return checkpoint(lambda x: self.block(x.sin()), x, **self.how)


class Open(Checkpointed):
    """The same without checkpointing."""

    def forward(self, x):
        return self.block(x.sin())


@pytest.mark.parametrize('use_reentrant', [True, False])
@pytest.mark.parametrize('with_cp', [True, False], ids=['own recomputation', 'none'])
@pytest.mark.parametrize(('out_channels', 'stride'), [(4, 1), (4, 2), (128, 2)], ids=['block', 'stride', 'stem'])
@pytest.mark.parametrize('calls', [1, 3])
def test_under_other_codes_checkpointing_all_is_the_same(calls, out_channels, stride, with_cp, use_reentrant):
    block = make_block(out_channels=out_channels, stride=stride, with_cp=with_cp)
    images = [make_image(2, 4, 6, 7, seed=seed) for seed in range(calls)]
    assert_same(Open(copy.deepcopy(block), use_reentrant), Checkpointed(block, use_reentrant), images)


@pytest.mark.parametrize('warm', [False, True])
def test_a_stock_resnet_with_cp_has_the_gradients_of_one_without(warm):
    nets = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        net = ResNet(18, base_channels=4, stem_channels=4, with_cp=with_cp, conv_cfg=dict(type='ODBBConv2d')).double()
        plain = ResNet(18, base_channels=4, stem_channels=4).double()
        net.load_state_dict(randomize(plain if warm else net).state_dict())
        net.train()
        for _ in range(2):  # a second step starts from the statistics of the first
            net.zero_grad()
            net(make_image(2, 3, 32, 32).requires_grad_())[-1].square().sum().backward()
        nets.append(net)
    expected = dict(nets[0].named_parameters())
    for name, parameter in nets[1].named_parameters():
        assert (parameter.grad is None) == (expected[name].grad is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-9, atol=1e-9)
    buffers = dict(nets[0].named_buffers())
    for name, buffer in nets[1].named_buffers():
        if '.branches.' in name:
            torch.testing.assert_close(buffer, buffers[name], rtol=1e-12, atol=1e-12)
