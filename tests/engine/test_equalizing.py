"""Equalizing the channels of a fused network: exact, in the keys of the stock network, and as even as it says."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from repnas_mm.engine.equalizing import equalize, find_pairs
from repnas_mm.engine.fusing import fuse_model, max_difference, raw_output
from repnas_mm.models.norm import scale_and_shift
from repnas_mm.models.reparam import fold_norm

ROOT = Path(__file__).resolve().parents[2]


def backbone(**options):
    return dict(type='ODBBBackbone', base_channels=4, in_channels=1, genotype='repvgg', **options)


def classifier(backbone, channels):
    head = dict(type='LinearClsHead', num_classes=10, in_channels=channels)
    return dict(type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head)


RESNET = dict(
    type='ResNet', depth=18, base_channels=4, stem_channels=4, in_channels=1, conv_cfg=dict(type='ODBBConv2d')
)
#: Config -> pairs of layers
MODELS_OF = {
    'chain': (classifier(backbone(arch='A0'), 80), 22),
    'groups': (classifier(backbone(arch='B1g2'), 128), 28),
    'pools': (classifier(backbone(arch='VGG16'), 32), 13),
    # sums, whose summands stay as they are: a pair inside each of 8 blocks
    'residual': (classifier(RESNET, 32), 8),
}


@pytest.fixture(params=MODELS_OF)
def fused(request):
    """A fused network in float64 whose channels differ by orders of magnitude, images, and its number of pairs."""
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    cfg, pairs = MODELS_OF[request.param]
    model = MODELS.build(cfg).double()
    images = torch.randn(4, 1, 32, 32).double()
    model.train()
    with torch.no_grad():
        model(images, mode='tensor')  # BN statistics of its own
        fuse_model(model.eval())
        for parameter in model.parameters():
            if parameter.ndim == 4:
                parameter *= torch.exp(torch.randn(len(parameter), 1, 1, 1).double())
    return model, images, pairs


@pytest.mark.parametrize('per_channel', [True, False])
def test_computes_the_same_in_the_same_keys_with_even_channels(fused, per_channel):
    model, images, pairs = fused
    keys, before = list(model.state_dict()), raw_output(model, images)
    uneven = spread(find_pairs(model, images))
    assert equalize(model, images, per_channel) == pairs
    assert max_difference(before, raw_output(model, images)) < 1e-10
    assert list(model.state_dict()) == keys and all(not block.training for block in model.modules())
    if not per_channel:
        assert spread(find_pairs(model, images)) < uneven / 3


def spread(pairs):
    """Largest weight of a channel over all pairs ÷ that of the middle channel, behind a norm where there is one."""
    ranges = []
    for first, norm, _ in pairs:
        weight = first.weight if norm is None else fold_norm(first.weight, *scale_and_shift(norm))[0]
        rows = weight.detach().abs().flatten(1).amax(1)
        ranges.append(rows.max() / rows.median())
    return max(ranges)


def test_a_channel_that_is_hardly_more_than_its_bias_does_not_grow():
    init_default_scope('mmpretrain')
    model = MODELS.build(classifier(backbone(arch='VGG16', deploy=True), 32)).eval()
    first, _, second = find_pairs(model, torch.randn(1, 1, 32, 32))[0]
    with torch.no_grad():
        first.weight[0], first.bias[0] = 1e-20, 1.0
    seen = []
    second.register_forward_pre_hook(lambda layer, args: seen.append(args[0][:, 0].max()))
    equalize(model, torch.randn(1, 1, 32, 32), per_channel=False)
    raw_output(model, torch.randn(1, 1, 32, 32))
    assert seen[-1] < 10


def test_a_weight_for_a_channel_that_is_always_zero_no_longer_takes_the_steps_of_the_others():
    """As behind a skip whose channel has died: its BN divides by the square root of ε alone."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(classifier(backbone(arch='VGG16', deploy=True), 32)).eval()
    images = torch.randn(4, 1, 32, 32)
    first, _, second = find_pairs(model, images)[0]
    with torch.no_grad():
        first.weight[0], first.bias[0] = -first.weight[0].abs(), -100.0
        second.weight[:, 0] = 400.0
    before = raw_output(model, images)
    equalize(model, images)
    assert max_difference(before, raw_output(model, images)) < 1e-5
    columns = second.weight.detach().abs().amax((0, 2, 3))
    assert columns[0] < 10 * columns[1:].median()
