"""Parameters and multiply-adds against numbers counted by hand."""

import torch
from mmengine.analysis import FlopAnalyzer
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead
from torch import nn

from measuring.operations import complexity, multiply_adds
from repnas_mm.models import ODBBBackbone


def test_flops_are_multiply_adds():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Flatten(),
        nn.Linear(4 * 16, 10),
    )
    parameters, flops = complexity(net, 8)
    assert parameters == 4 * 3 * 9 + 8 + (4 * 2 * 9 + 4) + (64 * 10 + 10)
    assert flops == 16 * (4 * 3 * 9) + 16 * (4 * 2 * 9) + 64 * 10  # norms are not counted


def test_multiply_adds_of_a_convolution_counted_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1, groups=2))
    assert multiply_adds(net, 3, 32) == 16 * 16 * (8 * 3 * 9 + 4 * 4)


def test_they_are_what_mmengine_counts_but_for_the_pooling():
    net = ImageClassifier(
        ODBBBackbone('A0', base_channels=8, deploy=True), GlobalAveragePooling(), head=LinearClsHead(7, 160)
    )
    counted = FlopAnalyzer(net.eval(), torch.zeros(1, 3, 64, 64)).unsupported_ops_warnings(False)
    assert complexity(net, 64)[1] == counted.total() - 160 * 2 * 2


def test_counting_leaves_the_network_as_it_is():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).train()
    multiply_adds(net, 3, 32)
    assert net.training and net[0].weight.device.type == 'cpu' and not net[1].num_batches_tracked
