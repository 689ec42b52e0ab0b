"""A block's forward and backward against the reference of DESIGN section 2, in float64."""

import copy

import pytest
import torch
from blocks import make_block, make_image, mask_of, masks
from reference import Reference
from torch.utils._python_dispatch import TorchDispatchMode

from repnas_mm.models.block_call import BlockCall
from repnas_mm.models.fast.stem import applies

sharing = pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])


def assert_same(got, expected, what):
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10, msg=lambda m: f'{what}: {m}')


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('kernel_size', [3, 5, 7])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('groups', [1, 2, 4], ids=['dense', 'groups', 'depthwise'])
@sharing
@pytest.mark.parametrize('out_channels', [4, 8], ids=['in=out', 'in<out'])
def test_each_branch_and_all_together_equal_the_reference(
    training, kernel_size, stride, groups, share_weights, out_channels
):
    original = make_block(4, out_channels, kernel_size, stride, groups, share_weights=share_weights).train(training)
    image = torch.randn(3, 4, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for names in [*((name,) for name in original.candidates), original.candidates]:
        assert_equals_reference(copy.deepcopy(original), names, image, training)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('kernel_size, stride, dilation', [(3, 1, 2), (5, 2, 3)])
@pytest.mark.parametrize('groups', [1, 2, 4], ids=['dense', 'groups', 'depthwise'])
@sharing
def test_each_dilated_branch_and_all_together_equal_the_reference(
    training, kernel_size, stride, dilation, groups, share_weights
):
    original = make_block(4, 4, kernel_size, stride, groups, dilation=dilation, share_weights=share_weights)
    image = torch.randn(3, 4, 9, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for names in [*((name,) for name in original.candidates), original.candidates]:
        assert_equals_reference(copy.deepcopy(original).train(training), names, image, training)


def assert_equals_reference(block, names, image, training):
    """Output, gradients of the input and of every parameter, and BN statistics."""
    reference = Reference(block)
    block.set_active(mask_of(block, names))
    x, reference_x = image.clone().requires_grad_(), image.clone().requires_grad_()
    y, expected = block(x), sum(reference.branches(reference_x, names, training).values())
    assert_same(y, expected, names)

    upstream = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y.backward(upstream)
    expected.backward(upstream)
    assert_same(x.grad, reference_x.grad, (names, 'input'))
    for name, parameter in block.named_parameters():
        if reference.parameters[name].grad is None:
            assert parameter.grad is None, (names, name)
        else:
            assert_same(parameter.grad, reference.parameters[name].grad, (names, name))
    for name, buffer in block.named_buffers():
        if name in reference.statistics:
            assert_same(buffer, reference.statistics[name], (names, name))


@pytest.mark.parametrize('with_cp', [True, False], ids=['checkpointed', 'kept'])
@pytest.mark.parametrize('kernel_size, stride, dilation', [(3, 1, 1), (3, 2, 1), (5, 2, 1), (3, 1, 3), (3, 2, 2)])
@sharing
def test_every_subset_of_a_stems_branches_equals_the_reference_as_one_convolution(
    kernel_size, stride, dilation, share_weights, with_cp
):
    kwargs = dict(dilation=dilation, share_weights=share_weights, with_cp=with_cp)
    stem = make_block(2, 3 * kernel_size**2, kernel_size, stride, **kwargs)
    image = torch.randn(IMAGES, 2, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for mask in masks(stem)[:: 5 if with_cp or dilation > 1 else 1]:  # every subset once a shape
        block, names = copy.deepcopy(stem), [name for name, kept in zip(stem.candidates, mask) if kept]
        assert_equals_reference(copy.deepcopy(stem), names, image, training=True)
        block.set_active(mask)
        with Count() as count:
            block(image)
        assert (count.convolutions, count.norms) == (1, 0)


@pytest.mark.parametrize('change', ['SyncBN', 'norm_eval', 'groups', 'wide input'])
def test_a_stem_is_computed_branch_by_branch_where_moments_are_wrong_or_dear(change):
    groups = 2 if change == 'groups' else 1
    stem = make_block(4 if change == 'wide input' else 2, 40, groups=groups, branches=('kxk', '1xk'))
    if change == 'SyncBN':
        stem = torch.nn.SyncBatchNorm.convert_sync_batchnorm(stem)
    if change == 'norm_eval':
        stem.branches['kxk'].norm.eval()
    assert not applies(stem, torch.zeros(2, stem.in_channels, 8, 8), BlockCall((1,) * 4))


def test_a_forward_in_training_moves_the_statistics_of_active_branches_only():
    block = make_block()
    block.set_active(mask_of(block, ('kxk', '1x1_avg')))
    block(make_image(2, 4, 6, 7))
    tracked = {name: branch.norm.num_batches_tracked.item() for name, branch in block.branches.items()}
    assert tracked == {name: int(name in ('kxk', '1x1_avg')) for name in block.candidates}


class Count(TorchDispatchMode):
    """Counts convolutions, batch norms and average poolings."""

    def __init__(self):
        super().__init__()
        self.convolutions = self.norms = self.poolings = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if isinstance(args[0], torch.Tensor) and args[0].shape[:1] != (IMAGES,):
            name = ''  # kernels and what surrounds images
        pooling = 'convolution' in name and args[-1] > 1  # depthwise
        self.poolings += pooling
        self.convolutions += 'convolution' in name and not pooling
        self.norms += 'batch_norm' in name
        return func(*args, **(kwargs or {}))


IMAGES = 2
CONVOLUTIONS = {'1x1': 1, 'kxk': 1, '1x1_kxk': 2, '1x1_avg': 1, '1xk': 1, 'kx1': 1, 'skip': 0}


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('stride', [1, 2])
@sharing
def test_dropped_branches_are_not_computed(stride, share_weights, training):
    block = make_block(stride=stride, share_weights=share_weights).train(training)
    x = make_image(IMAGES, 4, 6, 7)
    folded = stride > 1
    for mask in masks(block):
        block.set_active(mask)
        with Count() as count:
            block(x)
        names = block.active_branches
        merged = folded and '1x1_kxk' in names
        assert count.convolutions == sum(CONVOLUTIONS[name] for name in names) - merged, names
        inner_norms = 0 if folded else ('1x1_kxk' in names) + ('1x1_avg' in names)
        assert count.norms == len(names) + inner_norms, names
        assert count.poolings == ('1x1_avg' in names), names


@sharing
def test_channels_last_images_compute_the_same(share_weights):
    block = make_block(share_weights=share_weights, dtype=torch.float32)
    x, upstream = make_image(2, 4, 8, 8, dtype=torch.float32), torch.randn(2, 4, 8, 8)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        b, image = copy.deepcopy(block), x.clone().to(memory_format=memory_format).requires_grad_()
        y = b.to(memory_format=memory_format)(image)
        y.backward(upstream)
        results.append((y, image.grad, b.branches['kxk'].norm.running_mean))
    for got, expected in zip(*results):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_autocast_trains_every_branch_in_low_precision():
    block = make_block(dtype=torch.float32)
    x = torch.randn(2, 4, 8, 8)
    expected = copy.deepcopy(block)(x)
    with torch.autocast('cpu', torch.bfloat16):
        y = block(x)
    y.float().square().sum().backward()
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.3)
    assert all(p.grad.isfinite().all() for n, p in block.named_parameters() if n != 'alpha')


@pytest.mark.parametrize('share_weights', [True, False], ids=['shared', 'unshared'])
@pytest.mark.parametrize(('out_channels', 'stride'), [(4, 1), (4, 2), (128, 2)], ids=['block', 'stride', 'stem'])
def test_no_gradient_is_in_the_memory_of_another(out_channels, stride, share_weights):
    """Accumulation, loss scalers and clipping change gradients in place: each alone, or all that share a memory."""
    block = make_block(out_channels=out_channels, stride=stride, share_weights=share_weights)
    together, each = copy.deepcopy(block), []
    for image in (make_image(2, 4, 6, 7, seed=seed) for seed in range(2)):
        for model in (block, together):
            model(image).square().sum().backward()
        each.append({name: p.grad for name, p in block.named_parameters() if p.grad is not None})
        block.zero_grad()
    gradients = {name: p.grad for name, p in together.named_parameters() if p.grad is not None}
    assert len({grad.untyped_storage().data_ptr() for grad in gradients.values()}) == len(gradients) > 5
    for name, grad in gradients.items():
        assert_same(grad, each[0][name] + each[1][name], name)
