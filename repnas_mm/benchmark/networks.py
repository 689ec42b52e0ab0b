"""The networks on the bench, each in training on one batch: stock RepVGG, the search, the naive search, a subnet."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from mmengine.optim import build_optim_wrapper
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead, RepVGG
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..engine.alpha_optimizer import AlphaOptimizer
from ..models import ODBBBackbone

CLASSES = 1000


@dataclass(frozen=True)
class Setting:
    """What is measured: an arch of width ``base_channels``, on square images of ``image_size`` pixels, and how."""

    arch: str
    image_size: int = 160
    batch_size: int = 8
    amp: str | None = None
    channels_last: bool = False
    device: str = 'cpu'
    base_channels: int = 64

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """Context of the forward pass."""
        return torch.autocast(self.device, self.amp and getattr(torch, self.amp), self.amp is not None)

    def images(self) -> Tensor:
        """(N, 3, H, W) of noise."""
        images = torch.randn(self.batch_size, 3, self.image_size, self.image_size)
        return images.to(self.device, memory_format=self.memory_format)


def stock(setting: Setting) -> nn.Module:
    """mmpretrain's backbone of this arch."""
    return RepVGG(setting.arch, base_channels=setting.base_channels, out_indices=(3,))


def searched(setting: Setting) -> ODBBBackbone:
    """Ours, in search form."""
    return ODBBBackbone(setting.arch, base_channels=setting.base_channels)


class Training:
    """A classifier in training on one batch, with α beside the weights where ``backbone`` has it.

    Args:
        backbone: Of the setting's arch.
        setting: Its batch size, precision, memory format and device.
        searched_by_hook: RepNASHook will step α.
    """

    def __init__(self, backbone: nn.Module, setting: Setting, searched_by_hook: bool = False):
        backbone = backbone.to(setting.device, memory_format=setting.memory_format)
        width_factor = ODBBBackbone.arch_settings[setting.arch]['width_factor']
        head = LinearClsHead(CLASSES, int(setting.base_channels * 8 * width_factor[-1]))
        self.model = ImageClassifier(backbone, GlobalAveragePooling(), head=head).to(setting.device)
        optimizer = dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=1e-4)
        precision = dict(type='AmpOptimWrapper', dtype=setting.amp) if setting.amp else dict(type='OptimWrapper')
        self.model.train()
        self.optim_wrapper = build_optim_wrapper(self.model, dict(precision, optimizer=optimizer))
        alphas = [module.alpha for module in backbone.modules() if isinstance(getattr(module, 'alpha', None), Tensor)]
        self.alpha_optimizer = None
        if alphas and not searched_by_hook:
            self.alpha_optimizer = AlphaOptimizer(alphas, self.optim_wrapper, dict(type='Adam', lr=1e-4))
        samples = [DataSample().set_gt_label(i % CLASSES) for i in range(setting.batch_size)]
        self.batch = dict(inputs=setting.images(), data_samples=samples)

    def step(self) -> None:
        """Forward, loss, backward and the optimizers' steps."""
        if self.alpha_optimizer:
            self.alpha_optimizer.start_iter()
        self.model.train_step(self.batch, self.optim_wrapper)
        if self.alpha_optimizer:
            self.alpha_optimizer.finish_iter()


def subnet(backbone: ODBBBackbone) -> ODBBBackbone:
    """A copy that has nothing but the active branches."""
    backbone = deepcopy(backbone)
    for block in backbone.modules():
        if hasattr(block, 'switch_to_subnet'):
            block.switch_to_subnet()
    return backbone


def multiply_adds(backbone: nn.Module, setting: Setting) -> int:
    """Of the convolutions of one training forward, one image."""
    copy = deepcopy(backbone).to('meta')
    copy.train()  # mmpretrain's RepVGG returns None
    images = torch.empty(2, 3, setting.image_size, setting.image_size, device='meta')
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy(images)
    return counter.get_total_flops() // 2 // len(images)
