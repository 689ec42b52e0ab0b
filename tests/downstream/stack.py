"""The packages beside the stack that this project is tested with; import this before any of them.

None of their files is changed. What stands between them and the stack, and how it is met:

- mmyolo 0.6.0 refuses mmcv 2.1.0, mmocr 1.0.1 and mmrotate 1.0.0rc1 refuse mmdet 3.3.0, each by an assert when it is
  imported. Meanwhile both say that they are older.
- mmaction2 1.2.0 imports ``mmaction.models.localizers.drn``, which its wheel lacks; an empty one stands in.
- mmrotate 1.0.0rc1 imports ``Sequence`` from ``collections``, where Python has had it until 3.9.
- mmcv has no rotated IoU loss and no rotated RoI alignment that takes an untrained network's boxes on the CPU: of
  mmrotate only models without them are tried.
- mmrotate's metric counts in processes that it spawns, in which none of this is met: it gets threads.
- mmpose asks for chumpy, which no longer builds and which nothing here needs, and mmocr's imgaug for numpy 1, which
  ``requirements/downstream.txt`` pins.
"""

import collections
import collections.abc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.pool import ThreadPool
from types import ModuleType, SimpleNamespace

import mmcv
import mmdet
from torch import nn

PACKAGES = ('mmseg', 'mmpose', 'mmyolo', 'mmaction', 'mmrotate', 'mmocr')


@contextmanager
def saying_older() -> Iterator[None]:
    """Let mmcv and mmdet name versions inside the ``with`` that every package accepts."""
    versions = {mmcv: '2.0.1', mmdet: '3.0.0'}
    true = {module: module.__version__ for module in versions}
    try:
        for module, version in versions.items():
            module.__version__ = version
        yield
    finally:
        for module, version in true.items():
            module.__version__ = version


def import_packages() -> None:
    """Import all of `PACKAGES`."""
    collections.Sequence = collections.abc.Sequence
    stand_in = ModuleType('mmaction.models.localizers.drn.drn')
    stand_in.DRN = type('DRN', (nn.Module,), {})
    sys.modules['mmaction.models.localizers.drn'] = ModuleType('mmaction.models.localizers.drn')
    sys.modules[stand_in.__name__] = stand_in
    with saying_older():
        for package in PACKAGES:
            import_module(package)
    import_module('mmrotate.evaluation.functional.mean_ap').get_context = lambda _: SimpleNamespace(Pool=ThreadPool)


import_packages()
