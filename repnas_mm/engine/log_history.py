"""The log history in checkpoints: plain in those that our hooks write, allowed for a while in MMEngine's own.

MMEngine 0.10 stores its message hub as pickled `HistoryBuffer` objects. Since torch 2.6 ``torch.load`` refuses them,
so that a stock run cannot resume from its own checkpoint. A buffer pickles its class, two numpy arrays and, by way of
``getattr``, its statistics methods. ``getattr`` in general would let a file reach anything; what is allowed here in
its place only ever returns a statistics method of `HistoryBuffer`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def plain_history(message_hub: Mapping) -> dict:
    """Copy the state of a message hub with tensors and numbers in the place of buffers and numpy's scalars.

    Any tool reads a checkpoint with it under torch's safe loader.
    """
    scalars = {
        name: _plain_buffer(buffer) if isinstance(buffer, HistoryBuffer) else buffer
        for name, buffer in message_hub['log_scalars'].items()
    }
    info = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in message_hub['runtime_info'].items()
    }
    return dict(message_hub, log_scalars=scalars, runtime_info=info)


def restore_history(message_hub: dict) -> None:
    """Undo `plain_history` in place; what is a buffer already stays one."""
    for name, plain in message_hub['log_scalars'].items():
        if isinstance(plain, Mapping):
            values, counts = (plain[key].numpy() for key in ('values', 'counts'))
            message_hub['log_scalars'][name] = HistoryBuffer(values, counts, plain['max_length'])


def _plain_buffer(buffer: HistoryBuffer) -> dict:
    values, counts = (torch.from_numpy(array.copy()) for array in buffer.data)
    return dict(values=values, counts=counts, max_length=buffer.max_length)


@contextmanager
def log_history_allowed() -> Iterator[None]:
    """Allow what a `HistoryBuffer` consists of in safe loading, inside the ``with`` block only.

    What was allowed before stays allowed after. Before torch 2.5, whose loader is not safe by default, this does
    nothing.

    Example:
        >>> with log_history_allowed():
        ...     checkpoint = torch.load('work_dirs/my_search/epoch_10.pth')
    """
    if not hasattr(torch.serialization, 'safe_globals'):
        yield
        return
    before = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([allowed for allowed in _pickled() if allowed not in before]):
        yield


def _pickled() -> list:
    """Everything by which a pickled `HistoryBuffer` names its parts, as torch takes it."""
    HistoryBuffer()  # fills the table of statistics methods
    # arrays of the history, scalars among the run-time information
    numpy_makers = [np.array(0).__reduce__()[0], np.float64(0).__reduce__()[0]]
    dtypes = [type(np.dtype(kind)) for kind in ('float64', 'float32', 'int64', 'int32', 'bool')]
    return [HistoryBuffer, *numpy_makers, np.ndarray, np.dtype, *dtypes, (_history_method, 'builtins.getattr')]


def _history_method(owner: Any, name: str):
    """Stand in for ``getattr`` while a checkpoint is read."""
    if owner is not HistoryBuffer or name not in HistoryBuffer._statistics_methods:
        raise ValueError(f'A checkpoint may not look up {name!r} of {owner!r}; only the statistics of a HistoryBuffer.')
    return HistoryBuffer._statistics_methods[name]
