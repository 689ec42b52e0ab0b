"""Backward from recipes: autograd keeps how to compute a tensor again, where that is cheap, instead of the tensor."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

Hooks = torch.autograd.graph.saved_tensors_hooks


class Recipe:
    """Computes a tensor again, as the forward pass did, when backward asks for it."""

    def __init__(self, make: Callable[[], Tensor], device: str):
        self.make = make
        # backward runs outside the autocast of the forward pass
        self.autocast: AbstractContextManager = nullcontext()
        if torch.amp.is_autocast_available(device):
            enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
            self.autocast = torch.autocast(device, dtype, enabled, cache_enabled=False)

    @torch.no_grad()
    def __call__(self) -> Tensor:
        with self.autocast:
            return self.make()


class Leftover:
    """``make``, for what backward needs twice: there the first call leaves its result to the second.

    Args:
        make: Computes a tensor.
        in_backward: Says whether the forward pass is over.
    """

    def __init__(self, make: Callable[[], Tensor], in_backward: Callable[[], bool]):
        self.make, self.in_backward = make, in_backward
        self.left: Tensor | None = None

    def __call__(self) -> Tensor:
        if not self.in_backward():
            return self.make()
        result, self.left = self.left, None
        if result is None:
            result = self.left = self.make()
        return result


def keep_recipe(tensor: Tensor, make: Callable[[], Tensor]) -> torch.autograd.graph.saved_tensors_hooks:
    """Context in which operations that save ``tensor`` for backward save in its place that ``make`` computes it."""
    recipe, storage = Recipe(make, tensor.device.type), tensor.untyped_storage()._cdata

    def pack(saved: Tensor) -> Tensor | Recipe:
        return recipe if saved.untyped_storage()._cdata == storage else saved

    def unpack(kept: Tensor | Recipe) -> Tensor:
        return kept() if isinstance(kept, Recipe) else kept

    return Hooks(pack, unpack)
