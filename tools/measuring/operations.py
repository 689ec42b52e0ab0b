"""Parameters and multiply-adds of a network."""

from copy import deepcopy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(network: nn.Module, in_channels: int, image_size: int) -> int:
    """Multiply-adds of convolutions and linear layers in one forward of one square image.

    The forward runs on torch's meta device, where nothing is computed, and in the mode that ``network`` is in.
    """
    training = network.training
    network = deepcopy(network).to('meta')
    network.train(training)  # a module's own `train` may have more to set
    images = torch.empty(2, in_channels, image_size, image_size, device='meta')  # two, which BN in training needs
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    return counter.get_total_flops() // 2 // len(images)  # torch counts a multiply-add as two operations


def complexity(classifier: nn.Module, image_size: int) -> tuple[int, int]:
    """(parameters, multiply-adds) of a classifier in eval mode, for one RGB image of so many pixels a side.

    Papers such as RepNAS (Table 2) call the multiply-adds FLOPs.
    """
    parameters = sum(p.numel() for p in classifier.parameters())
    return parameters, multiply_adds(classifier.eval(), 3, image_size)
