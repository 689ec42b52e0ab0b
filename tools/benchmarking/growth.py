"""Growth of the bytes saved for backward and of the time of a step, with C, with the batch and with the resolution."""

import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from measuring.reports import Mean
from measuring.timing import take_turns
from repnas_mm.search import BranchSearch, find_blocks

from .bytes_saved import backbone_bytes
from .compared import TrainingStep, repvgg_branches, searched, stock
from .settings import Setting
from .targets import line

#: Shares of all candidate branches that C is
SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
#: Images a batch, as shares of the setting's, and their sides
BATCHES, SIDES = (0.25, 0.5, 1, 1.5, 2), (0.6, 0.8, 1, 1.2, 1.4)
#: Steps of each network a timed draw, after one to warm up; of the draws whose bytes are counted every fifth is timed
ROUNDS, TIMED = 2, 5

BYTES, MILLISECONDS = 'MiB saved for backward', 'ms a step'


def measure(setting: Setting, times: int) -> list[dict]:
    """A row for each C, batch size and resolution: means over so many draws, and stock RepVGG beside them."""
    backbone = searched(setting)
    default = repvgg_branches(backbone)
    total = sum(len(block.candidates) for block in find_blocks(backbone).values())
    points = [('branches', setting, round(share * total)) for share in SHARES]
    points += [('images', replace(setting, batch_size=round(n * setting.batch_size)), default) for n in BATCHES]
    sides = (32 * round(s * setting.image_size / 32) for s in SIDES)
    points += [('pixels', replace(setting, image_size=side), default) for side in dict.fromkeys(sides)]
    return [_row(axis, variant, num_branches, times) for axis, variant, num_branches in points]


def _row(axis: str, setting: Setting, num_branches: int, times: int) -> dict:
    base, backbone = stock(setting), searched(setting)
    search = BranchSearch(find_blocks(backbone), num_branches)
    runs = {'search': TrainingStep(backbone, setting, search).run, 'stock': TrainingStep(base, setting).run}
    saved, seconds, stock_seconds = [], [], []
    for i in range(times):
        search.apply(*search.sample())
        saved.append(backbone_bytes(backbone, setting) / 2**20)
        if i % TIMED == 0:
            measured = take_turns(runs, ROUNDS, ROUNDS, 0)
            seconds.append(1e3 * statistics.median(measured['search']))
            stock_seconds.append(1e3 * statistics.median(measured['stock']))
    x = {'branches': num_branches, 'images': setting.batch_size, 'pixels': setting.image_size**2}[axis]
    return {
        'grows with': axis,
        'at': x,
        BYTES: Mean(tuple(saved)),
        f'{BYTES}, stock': backbone_bytes(base, setting) / 2**20,
        MILLISECONDS: Mean(tuple(seconds)),
        f'{MILLISECONDS}, stock': statistics.fmean(stock_seconds),
    }


def straightness(rows: Sequence[dict], setting: Setting) -> list[dict]:
    """R² of the straight line through the means, for each curve."""
    lines = []
    for axis in dict.fromkeys(row['grows with'] for row in rows):
        curve = [row for row in rows if row['grows with'] == axis]
        for what in (BYTES, MILLISECONDS):
            correlation = np.corrcoef([row['at'] for row in curve], [row[what].mean for row in curve])[0, 1]
            lines.append(line(f'R² of {what} over {axis}', setting, 'random', [float(correlation**2)]))
    return lines
