"""The picture of a genotype, as in the paper's Figures 6-11: a column for each block, a row for each branch."""

from itertools import groupby

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..search.genotype import Genotype
from ..search.space import BRANCHES

_COLORS = ['#4477aa', '#222255', '#66ccee', '#228833', '#ccbb44', '#ee6677', '#aa3377']


def plot_genotype(genotype: Genotype, title: str | None = None) -> Figure:
    """Kept branches as filled cells, dropped ones empty, stages separated by lines."""
    names, rows = list(genotype), list(BRANCHES)
    figure = Figure(figsize=(max(4.0, 1.8 + 0.32 * len(names)), 3.0), layout='constrained')
    axes = figure.add_subplot()
    for x, name in enumerate(names):
        for y, (branch, color) in enumerate(zip(rows, _COLORS + ['#777777'] * len(rows))):
            kept = branch in genotype[name]
            axes.add_patch(_cell(x, y, color if kept else '#f2f2f2'))
    start = 0
    for stage, blocks in groupby(names, key=stage_of):
        end = start + len(list(blocks))
        axes.axvline(end - 0.5, color='#888888', linewidth=0.8)
        axes.text((start + end - 1) / 2, -0.75, stage, ha='center', va='bottom', fontsize=7)
        start = end
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(names)), [str(i + 1) for i in range(len(names))], fontsize=6)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.tick_params(length=0)
    axes.set_xlabel(f'block ({genotype.num_branches} branches in {len(names)} blocks)', fontsize=8)
    if title:
        figure.suptitle(title, fontsize=9)
    return figure


def stage_of(block: str) -> str:
    """The stage that a block's name tells: ``backbone.stage_1.0`` -> ``1``, ``backbone.stem`` -> ``stem``."""
    parts = block.split('.')
    return (parts[-2] if parts[-1].isdigit() and len(parts) > 1 else parts[-1]).removeprefix('stage_')


def _cell(x: float, y: float, color: str) -> Rectangle:
    return Rectangle((x - 0.45, y - 0.42), 0.9, 0.84, facecolor=color, edgecolor='none')
