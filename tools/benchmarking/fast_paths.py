"""Gain of each fast path of the blocks: a training step with all of them beside one with all but this one."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from measuring.reports import Mean
from measuring.timing import take_turns
from repnas_mm.search import BranchSearch, find_blocks

from .bytes_saved import backbone_bytes
from .compared import TrainingStep, repvgg_branches, searched
from .settings import Setting

#: Steps of each variant a draw, after one to warm up
ROUNDS = 2
TIME, BYTES = 'time without ÷ with', 'bytes without ÷ with'


def measure(
    setting: Setting, times: int, paths: Iterable[str], without: Callable[..., AbstractContextManager]
) -> list[dict]:
    """A row for each path: ratios of the time of a step and of the bytes that its forward saves for backward.

    All variants are one network with the same branches active, and take turns.

    Args:
        setting: Arch, images and precision.
        times: Draws of the branches.
        paths: Names of the fast paths, such as `repnas_mm.models.fast.PATHS`.
        without: Makes the context in which the paths named are off, such as `repnas_mm.models.fast.without`.
    """
    variants = {'all': (), **{path: (path,) for path in paths}}
    backbone = searched(setting)
    search = BranchSearch(find_blocks(backbone), repvgg_branches(backbone))
    training = TrainingStep(backbone, setting, search)

    def step(*names: str) -> None:
        with without(*names):
            training.run()

    def saved(*names: str) -> int:
        with without(*names):
            return backbone_bytes(backbone, setting)

    runs = {variant: lambda names=names: step(*names) for variant, names in variants.items()}
    time_ratios, byte_ratios = defaultdict(list), defaultdict(list)
    for _ in range(times):
        search.apply(*search.sample())
        seconds = take_turns(runs, ROUNDS, ROUNDS, 0)
        counted = {variant: saved(*names) for variant, names in variants.items()}
        for variant in variants:
            time_ratios[variant].append(statistics.median(a / b for a, b in zip(seconds[variant], seconds['all'])))
            byte_ratios[variant].append(counted[variant] / counted['all'])
    rows = []
    for path in [variant for variant in variants if variant != 'all']:
        time, size = Mean(tuple(time_ratios[path])), Mean(tuple(byte_ratios[path]))
        row = {'setting': str(setting), 'fast path': path, 'draws': times}
        # not as a `Mean`, whose two digits are too few for a few percent
        rows.append(row | {TIME: time.mean, '± time': time.error, BYTES: size.mean, '± bytes': size.error})
    return rows
