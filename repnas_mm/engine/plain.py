"""Data of any kind as plain Python, which every torch loads without running code."""

from collections.abc import Mapping, Set
from enum import Enum
from inspect import isroutine

import numpy as np
import torch
from torch import Tensor

_BASES = (bool, int, float, complex, str, bytes)
#: What torch's safe loader takes as it is
_SAFE = (*_BASES, type(None), Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device)


def plain(value):
    """Copy ``value`` with plain dicts, lists, tuples, numbers and strings in the place of all else but tensors.

    Arrays become lists, numpy's scalars numbers, a set a tuple, a path or another object its text. A dict loses the
    functions in it: those in a scheduler's state are set by its own constructor.
    """
    if type(value) in _SAFE:
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items() if not isroutine(item)}
    if isinstance(value, tuple | Set):
        return tuple(map(plain, value))
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, np.floating | np.complexfloating):
        return (float if isinstance(value, np.floating) else complex)(value)  # a long double's item is itself
    if isinstance(value, np.generic):
        return plain(value.item())
    base = next((base for base in _BASES if isinstance(value, base)), str)
    return base(value)
