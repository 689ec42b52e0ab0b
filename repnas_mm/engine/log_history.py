"""Lets torch's safe loader (``weights_only=True``) read the log history in MMEngine's own checkpoints, for a while.

MMEngine 0.10 stores its message hub as pickled `HistoryBuffer` objects. Since torch 2.6 ``torch.load`` refuses them,
so that a stock run cannot resume from its own checkpoint. A buffer pickles its class, two numpy arrays and, by way of
``getattr``, its statistics methods. ``getattr`` in general would let a file reach anything; what is allowed here in
its place only ever returns a statistics method of `HistoryBuffer`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


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
