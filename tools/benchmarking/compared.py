"""The networks that are compared, each in training on one batch: stock RepVGG, the search, a subnet."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead, RepVGG
from mmpretrain.structures import DataSample
from torch import nn

from repnas_mm.engine.alpha_optimizer import AlphaOptimizer
from repnas_mm.models import ODBBBackbone
from repnas_mm.search import BranchSearch, Genotype

from .settings import Setting

CLASSES = 1000


def stock(setting: Setting) -> nn.Module:
    """mmpretrain's RepVGG of the setting's arch, untrained."""
    shape = dict(base_channels=setting.base_channels, in_channels=setting.in_channels)
    if setting.layout is None:
        return RepVGG(setting.arch, **shape)
    arch = dict(setting.layout, group_layer_map=None, se_cfg=None)
    strides = arch.pop('strides')
    return RepVGG(arch, strides=strides, dilations=[1] * len(strides), out_indices=[len(strides) - 1], **shape)


def searched(setting: Setting, share_weights: bool = True) -> ODBBBackbone:
    """Our backbone of the setting's arch, in search form; Algorithm 1 shares the weights of a block's branches."""
    arch = setting.arch if setting.layout is None else dict(setting.layout)
    shape = dict(base_channels=setting.base_channels, in_channels=setting.in_channels)
    return ODBBBackbone(arch, **shape, share_weights=share_weights)


def subnet(backbone: ODBBBackbone) -> ODBBBackbone:
    """A copy of ``backbone`` that has nothing but its active branches."""
    backbone = deepcopy(backbone)
    for block in backbone.modules():
        if hasattr(block, 'switch_to_subnet'):
            block.switch_to_subnet()
    return backbone


def repvgg_branches(backbone: ODBBBackbone) -> int:
    """The C at which the search is measured: as many branches as RepVGG has in this shape."""
    return Genotype.from_preset('repvgg', backbone).num_branches


class TrainingStep:
    """One step of a classifier on one batch.

    Args:
        backbone: Of the setting's arch.
        setting: Its batch size, precision, memory format and device.
        search: Of the blocks in ``backbone``; its α is stepped beside the weights.
        compile_options: What `torch.compile` takes, to compile the step as a runner with ``compile`` does.
    """

    def __init__(
        self,
        backbone: nn.Module,
        setting: Setting,
        search: BranchSearch | None = None,
        compile_options: Mapping | None = None,
    ):
        backbone = backbone.to(setting.device, memory_format=setting.memory_format)
        with DefaultScope.overwrite_default_scope('mmpretrain'):  # a runner of before may have left another
            head = LinearClsHead(CLASSES, setting.out_channels)
            self.model = ImageClassifier(backbone, GlobalAveragePooling(), head=head).to(setting.device)
        optimizer = dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=1e-4)
        precision = dict(type='AmpOptimWrapper', dtype=setting.amp) if setting.amp else dict(type='OptimWrapper')
        self.tf32 = setting.tf32
        self.model.train()
        self.optim_wrapper = build_optim_wrapper(self.model, dict(precision, optimizer=optimizer))
        if search is not None:
            AlphaOptimizer(search, self.optim_wrapper.optimizer, dict(type='Adam', lr=1e-4))
        if compile_options is not None:
            self.model.train_step = torch.compile(self.model.train_step, **compile_options)
        samples = [DataSample().set_gt_label(i % CLASSES) for i in range(setting.batch_size)]
        self.batch = dict(inputs=setting.images(), data_samples=samples)

    def run(self) -> None:
        """Run forward, loss, backward and the optimizers' steps."""
        torch.backends.cudnn.allow_tf32 = self.tf32
        self.model.train_step(self.batch, self.optim_wrapper)
