"""Checkpoints beyond weights: plain in those that our hooks write, allowed for a while in MMEngine's own.

MMEngine 0.10 stores its message hub as pickled `HistoryBuffer` objects. Since torch 2.6 ``torch.load`` refuses them,
so that a stock run cannot resume from its own checkpoint. A buffer pickles its class, two numpy arrays and, by way of
``getattr``, its statistics methods. ``getattr`` in general would let a file reach anything; what is allowed here in
its place only ever returns a statistics method of `HistoryBuffer`, or OneCycleLR's own choice of a curve.

A data set's ``METAINFO`` is in there too, with numpy's arrays and scalars, paths and config dicts.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleParamScheduler

from .plain import plain

#: Stands for the class OneCycleParamScheduler while a checkpoint is read; nothing can be made of it
_ONE_CYCLE = 'OneCycleParamScheduler'


def plain_history(message_hub: Mapping) -> dict:
    """Copy the state of a message hub as plain data, with tensors in the place of buffers.

    Any tool reads a checkpoint with it under torch's safe loader.
    """
    scalars = {
        name: _plain_buffer(buffer) if isinstance(buffer, HistoryBuffer) else buffer
        for name, buffer in message_hub['log_scalars'].items()
    }
    return plain(dict(message_hub, log_scalars=scalars))


def restore_history(message_hub: dict) -> None:
    """Undo `plain_history` in place; what is a buffer already stays one."""
    for name, kept in message_hub['log_scalars'].items():
        if isinstance(kept, Mapping):
            values, counts = (kept[key].numpy() for key in ('values', 'counts'))
            message_hub['log_scalars'][name] = HistoryBuffer(values, counts, kept['max_length'])


def _plain_buffer(buffer: HistoryBuffer) -> dict:
    values, counts = (torch.from_numpy(array.copy()) for array in buffer.data)
    return dict(values=values, counts=counts, max_length=buffer.max_length)


@contextmanager
def log_history_allowed() -> Iterator[None]:
    """Allow what MMEngine's own checkpoints consist of in safe loading, inside the ``with`` block only.

    These are its log history, schedulers' states, and numpy's arrays and scalars of all types but objects and records,
    with which a file could reach any memory. What was allowed before stays allowed after. Before torch 2.5, whose
    loader is not safe by default, this does nothing.

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
    """Everything by which a stock checkpoint names its parts, as torch takes it: an object, or one and the name."""
    HistoryBuffer()  # fills the table of statistics methods
    makers = {'_reconstruct': np.array(0).__reduce__()[0], 'scalar': np.float64(0).__reduce__()[0]}
    # under the names that numpy 1 and numpy 2 write
    named = [(f, f'numpy.{core}.multiarray.{name}') for name, f in makers.items() for core in ('core', '_core')]
    dtypes = {type(np.dtype(code)) for code in np.typecodes['All'] if code not in 'OV'}
    # of any system; Python 3.13 has moved them
    kinds = ('PosixPath', 'WindowsPath', 'PurePosixPath', 'PureWindowsPath')
    paths = [(PurePath, f'pathlib.{part}{kind}') for part in ('', '_local.') for kind in kinds]
    return [
        HistoryBuffer,
        *named,
        np.ndarray,
        np.dtype,
        *dtypes,
        *paths,
        (dict, 'mmengine.config.config.ConfigDict'),
        frozenset,
        range,
        (_ONE_CYCLE, f'{OneCycleParamScheduler.__module__}.{_ONE_CYCLE}'),
        (_method, 'builtins.getattr'),
    ]


def _method(owner: Any, name: str):
    """Stand in for ``getattr`` while a checkpoint is read."""
    if owner is HistoryBuffer and name in HistoryBuffer._statistics_methods:
        return HistoryBuffer._statistics_methods[name]
    if owner == _ONE_CYCLE and name in ('_annealing_cos', '_annealing_linear'):
        return getattr(OneCycleParamScheduler, name)
    raise ValueError(f'A checkpoint may not look up {name!r} of {owner!r}; only the statistics of a HistoryBuffer.')
