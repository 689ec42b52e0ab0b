"""Faster ways to the numbers that `branches.py` defines, each with one switch.

Nothing here changes what a block computes beyond rounding. To rule a path out while hunting a bug, run the training
with it switched off:

    >>> from repnas_mm.models import fast
    >>> with fast.without('recompute', 'stem'):
    ...     runner.train()
"""

from collections.abc import Iterator
from contextlib import contextmanager

#: Name of each path -> the saving. What each is worth is measured by ``tools/benchmark.py --measures tricks``.
PATHS = {
    'recompute': 'backward computes the outputs of 1×1 convolutions again instead of having them saved',
    'strided': 'where a block has a stride, inner BNs read their statistics off moments of the input',
    'stem': 'a stem trains as one convolution, with BN statistics from the moments of its input patches',
    'depthwise_pool': 'average pooling is a depth-wise convolution on the CPU',
}

_switched_off: set[str] = set()


def is_on(path: str) -> bool:
    """True if this path of `PATHS` may be taken."""
    return path not in _switched_off


@contextmanager
def without(*paths: str) -> Iterator[None]:
    """Context in which the forwards of all blocks do without these paths of `PATHS`.

    Raises:
        ValueError: for an unknown name.
    """
    if unknown := [path for path in paths if path not in PATHS]:
        raise ValueError(f'Unknown fast path {unknown[0]!r}; known are {", ".join(PATHS)}.')
    added = set(paths) - _switched_off
    _switched_off.update(added)
    try:
        yield
    finally:
        _switched_off.difference_update(added)
