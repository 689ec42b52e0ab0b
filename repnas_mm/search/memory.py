"""Bytes of activations that a block saves for backward, for the ``memory`` constraint of the search."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy

import torch
from mmengine.model import revert_sync_batchnorm
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..checks import quote

#: (shape, dtype) of what a block gets in a call
Input = tuple[tuple[int, ...], torch.dtype]

_UNITS = {'B': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'KiB': 2**10, 'MiB': 2**20, 'GiB': 2**30}


def parse_bytes(size: int | str) -> int:
    """Convert ``'6GiB'``, ``'500 MB'`` or a number of bytes to bytes."""
    if isinstance(size, str) and (match := re.fullmatch(r'\s*(\d+(?:\.\d+)?)\s*([KMG]i?B|B)\s*', size)):
        number = float(match[1]) * _UNITS[match[2]]
        parsed = int(number) if math.isfinite(number) else 0
    else:
        parsed = size if type(size) is int else 0
    if parsed < 1:
        raise ValueError(
            f"memory={quote(size)} is not a size; write a number of bytes or something like '6GiB' or '500MB'."
        )
    return parsed


def block_bytes(block: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, kept: tuple[int, ...]) -> int:
    """Bytes that one training forward of ``block`` saves for backward.

    The forward really runs, on a copy without data (torch's meta device). Parameters are not counted, nor is the
    input, which the module before has counted as its output.

    Args:
        block: An ODBB block in search form.
        shape: (N, C, H, W) of the block's input.
        dtype: Of the block's input.
        kept: Numbers of the active candidates.
    """
    copy = revert_sync_batchnorm(deepcopy(block)).to(device='meta', dtype=dtype).train()
    copy.warm_started = False  # taking over the first batch's statistics is not part of a step, and needs data
    copy.set_active([j in kept for j in range(len(copy.candidates))])
    x = torch.empty(shape, dtype=dtype, device='meta', requires_grad=True)
    with torch.enable_grad():
        # a view of the input, so that an in-place operation in the block may not meet a leaf
        return bytes_saved_for_backward(lambda: copy(x.view_as(x)), (x, *copy.parameters(), *copy.buffers()))


def bytes_saved_for_backward(forward: Callable[[], torch.Tensor], owned: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages that ``forward`` made and that live as long as the graph behind its result does.

    What autograd saves is among them, and so is what the graph's hooks hold on to. Storages of ``owned`` tensors are
    not counted, nor is that of the result, unless backward needs it.
    """
    owned = {tensor.untyped_storage()._cdata for tensor in owned}
    with _MadeStorages() as made:
        graph = forward().grad_fn
    alive = sum(size for ref, size in made.sizes.items() if not ref.expired() and ref.cdata not in owned)
    del graph
    return alive


class _MadeStorages(TorchDispatchMode):
    """Remembers, without holding it, every storage in which an operation leaves its result."""

    def __init__(self):
        super().__init__()
        self.sizes: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.sizes[StorageWeakRef(storage)] = storage.nbytes()
        return result


class BlockMemory:
    """Looks up `block_bytes` of (block number, kept candidates), measuring every combination once.

    Args:
        blocks: The searched blocks.
        inputs: What each block gets in an iteration, call by call: a head that several levels of a neck share has many.
    """

    def __init__(self, blocks: list[nn.Module], inputs: list[Sequence[Input]]):
        self.blocks, self.inputs = blocks, inputs
        self._cache: dict[tuple, int] = {}

    def __call__(self, block_id: int, kept: tuple[int, ...]) -> int:
        block = self.blocks[block_id]
        return sum(self._call_bytes(block, *call, kept) for call in self.inputs[block_id])

    def _call_bytes(self, block: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, kept: tuple[int, ...]) -> int:
        key = (repr(block), shape, dtype, kept)
        if key not in self._cache:
            self._cache[key] = block_bytes(block, shape, dtype, kept)
        return self._cache[key]


def values(calls: Iterable[Input]) -> int:
    """Number of values that arrive at a block in these calls."""
    return sum(math.prod(shape) for shape, _ in calls)
