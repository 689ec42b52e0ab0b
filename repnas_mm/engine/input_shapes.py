"""Shapes of a model's images, and of what arrives at its blocks."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from ..search.block import is_block


def input_shapes(blocks: Mapping[str, nn.Module], forward: Callable) -> dict[str, tuple[tuple, torch.dtype]]:
    """Map each block's name to (shape, dtype) of its input in one ``forward()`` of the model."""
    seen: dict[str, tuple[tuple, torch.dtype]] = {}
    handles = [
        block.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.update({name: (tuple(inputs[0].shape), inputs[0].dtype)})
        )
        for name, block in blocks.items()
    ]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    if missing := [name for name in blocks if name not in seen]:
        raise ValueError(
            f"Block '{missing[0]}' was not reached by a forward with mode='tensor', so that its memory cannot be "
            'measured; use num_branches instead of memory.'
        )
    return seen


def image_shape(model: nn.Module) -> tuple[int, int, int]:
    """(C, H, W) of images to try ``model`` with: as many channels as its first convolution takes, 224×224."""
    convolutions = (m for m in model.modules() if isinstance(m, nn.Conv2d) or is_block(m))
    return getattr(next(convolutions, None), 'in_channels', 3), 224, 224
