"""Bytes of activations that a block keeps for backward, for the ``memory`` constraint of the search."""

import math
import re
from copy import deepcopy

import torch
from mmengine.model import revert_sync_batchnorm
from torch import nn

_UNITS = {'B': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'KiB': 2**10, 'MiB': 2**20, 'GiB': 2**30}


def parse_bytes(size: int | str) -> int:
    """``'6GiB'``, ``'500 MB'`` or a number of bytes, as bytes."""
    if isinstance(size, str) and (match := re.fullmatch(r'\s*(\d+(?:\.\d+)?)\s*([KMG]i?B|B)\s*', size)):
        number = float(match[1]) * _UNITS[match[2]]
        parsed = int(number) if math.isfinite(number) else 0
    else:
        parsed = size if type(size) is int else 0
    if parsed < 1:
        raise ValueError(f"memory={size!r} is not a size; write a number of bytes or something like '6GiB' or '500MB'.")
    return parsed


def saved_bytes(block: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, kept: tuple[int, ...]) -> int:
    """Bytes that one training forward of ``block`` keeps for backward.

    The forward really runs, on a copy without data (torch's meta device), and every storage that autograd saves is
    counted once. Parameters are not counted, nor is the input, which the module before has counted as its output.

    Args:
        block: An ODBB block in search form.
        shape: (N, C, H, W) of the block's input.
        dtype: Of the block's input.
        kept: Numbers of the active candidates.
    """
    copy = revert_sync_batchnorm(deepcopy(block)).to(device='meta', dtype=dtype).train()
    noise = torch.zeros(len(copy.candidates), device='meta')
    copy.warm_started = False  # settling on the first batch's statistics is not part of a step, and needs data
    copy.set_active([j in kept for j in range(len(copy.candidates))], noise)
    x = torch.empty(shape, dtype=dtype, device='meta', requires_grad=True)
    owned = {t.untyped_storage()._cdata for t in (x, *copy.parameters(), *copy.buffers())}
    storages = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # the storage itself is kept too: a freed one could be given the same address again
        storages[storage._cdata] = storage
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # a copy of the input, so that an in-place operation in the block may not meet a leaf
        out = copy(x.view_as(x))
    del out
    return sum(storage.nbytes() for key, storage in storages.items() if key not in owned)


class BlockMemory:
    """Looks up `saved_bytes` of (block number, kept candidates), measuring every combination once.

    Args:
        blocks: The searched blocks.
        inputs: (shape, dtype) of each block's input.
    """

    def __init__(self, blocks: list[nn.Module], inputs: list[tuple[tuple[int, ...], torch.dtype]]):
        self.blocks, self.inputs = blocks, inputs
        self._cache: dict[tuple, int] = {}

    def __call__(self, block_id: int, kept: tuple[int, ...]) -> int:
        block, (shape, dtype) = self.blocks[block_id], self.inputs[block_id]
        key = (repr(block), shape, dtype, kept)
        if key not in self._cache:
            self._cache[key] = saved_bytes(block, shape, dtype, kept)
        return self._cache[key]
