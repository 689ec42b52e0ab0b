"""Backward that computes the output of a 1×1 convolution again, where autograd would save it from the forward pass."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from ..layer import Layer


def run(layers: Sequence[Layer], x: Tensor) -> Tensor:
    """Apply ``layers`` to ``x`` one after the other; backward runs each cheap one again for its output."""
    make = None
    for layer in layers:
        with nullcontext() if make is None else saving_instead(x, make):
            y = layer.function(x)
        make = partial(layer.function, x) if layer.cheap else None
        x = y
    return x


def saving_instead(tensor: Tensor, make: Callable[[], Tensor]) -> torch.autograd.graph.saved_tensors_hooks:
    """Context in which operations that need ``tensor`` in backward save ``make``, which returns it, in its place."""
    recipe, storage = _Recipe(make, tensor.device.type), tensor.untyped_storage()._cdata

    def pack(saved: Tensor) -> Tensor | _Recipe:
        return recipe if saved.untyped_storage()._cdata == storage else saved

    def unpack(packed: Tensor | _Recipe) -> Tensor:
        return packed() if isinstance(packed, _Recipe) else packed

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


class _Recipe:
    """Calls ``make`` under the autocast of the forward pass, outside of which backward runs."""

    def __init__(self, make: Callable[[], Tensor], device: str):
        self.make, self.device = make, device
        self.dtype = torch.get_autocast_dtype(device) if _autocasts(device) else None

    @torch.no_grad()
    def __call__(self) -> Tensor:
        if self.dtype is None and not _autocasts(self.device):
            return self.make()  # a context that changes nothing takes as long as a small convolution
        with torch.autocast(self.device, self.dtype, self.dtype is not None, cache_enabled=False):
            return self.make()


def _autocasts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
