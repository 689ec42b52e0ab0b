"""Cost of a training step, counted from the model and its config, without data and without a GPU."""

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..search.memory import bytes_saved_for_backward

#: Images of a forward that is counted; BN needs more than one
IMAGES = 2


class StepCost(NamedTuple):
    """Result of `step_cost`."""

    parameters: int
    #: Multiply-adds of the forward of an image, in convolutions and linear layers
    multiply_adds: float
    #: Bytes that the forward saves for backward, an image
    saved: float


def step_cost(model: nn.Module, image: tuple[int, int, int]) -> StepCost:
    """Count what a training step with ``model``, on torch's meta device, costs for an image of (C, H, W).

    Not counted are the loss and what a two-stage detector does behind its neck.
    """
    images = torch.empty(IMAGES, *image, device='meta')
    owned = images, *model.parameters(), *model.buffers()
    with FlopCounterMode(display=False) as counter:
        saved = bytes_saved_for_backward(lambda: forward_sum(model, images), owned)
    return StepCost(sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 2 / IMAGES, saved / IMAGES)


def on_meta(model: nn.Module) -> nn.Module:
    """Copy ``model`` in training mode without its data."""
    return revert_sync_batchnorm(deepcopy(model)).to('meta').train()


def forward_sum(model: nn.Module, images: Tensor) -> Tensor:
    """One number that needs all that the network computes."""
    forward: Callable = model.extract_feat if hasattr(model, 'roi_head') else model
    return sum(leaf.sum() for leaf in tree_leaves(forward(images)) if isinstance(leaf, Tensor))


def image_shape(cfg: Config) -> tuple[int, int, int, int]:
    """(N, C, H, W) of a training batch: H and W from the last transform of the pipeline that sets a size.

    Raises:
        ValueError: if no transform does.
    """
    dataset = cfg.train_dataloader.dataset
    while 'pipeline' not in dataset:  # RepeatDataset and the like
        dataset = dataset.dataset
    sizes = [t.get('crop_size') or t.get('scale') for t in dataset.pipeline]
    size = next((size for size in reversed(sizes) if size), None)
    if size is None:
        raise ValueError('No transform of the training pipeline has a crop_size or scale that tells the image size.')
    height, width = (size, size) if isinstance(size, int) else size
    return cfg.train_dataloader.batch_size, cfg.model.backbone.get('in_channels', 3), height, width
