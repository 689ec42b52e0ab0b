"""Seconds of several networks as horizontal bars (paper, Table 2)."""

from collections.abc import Mapping

from matplotlib.figure import Figure

_COLORS = ['#4477aa', '#ccbb44', '#ee6677', '#228833']


def plot_latency(groups: Mapping[str, Mapping[str, float]], xlabel: str) -> Figure:
    """Draw way of measuring -> network -> seconds, a bar each; the first network is at the top."""
    names = list(next(iter(groups.values())))
    thickness = 0.8 / len(groups)
    figure = Figure(figsize=(6.4, 0.8 + 0.3 * len(names)), layout='constrained')
    axes = figure.add_subplot()
    for i, (group, seconds) in enumerate(groups.items()):
        y = [n + (i + 0.5) * thickness - 0.4 for n in range(len(names))]
        color = _COLORS[i % len(_COLORS)]
        bars = axes.barh(y, [seconds[name] for name in names], thickness, color=color, label=group)
        axes.bar_label(bars, fmt='%.3g', padding=2, fontsize=6)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel(xlabel)
    axes.grid(axis='x', color='#dddddd', linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8)
    return figure
