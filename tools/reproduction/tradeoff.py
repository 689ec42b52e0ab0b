"""Curves and points with error bars: accuracy against branches, epochs or latency (paper, Figures 1, 4 and 5)."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

Points = Mapping[str, Sequence[tuple[float, float, float]]]

_COLORS = ['#4477aa', '#ee6677', '#228833', '#ccbb44', '#aa3377', '#66ccee', '#222255', '#777777']
_MARKERS = 'osD^vP*X'


def plot_tradeoff(curves: Points, points: Points, xlabel: str, ylabel: str, logarithmic: bool = False) -> Figure:
    """Draw name -> [(x, y, standard error of y), ...], joined by lines (``curves``) or not (``points``)."""
    figure = Figure(figsize=(6.4, 4.2), layout='constrained')
    axes = figure.add_subplot()
    for i, (name, data) in enumerate([*curves.items(), *points.items()]):
        x, y, error = zip(*sorted(data))
        axes.errorbar(
            x,
            y,
            error if any(error) else None,
            color=_COLORS[i % len(_COLORS)],
            marker=_MARKERS[i % len(_MARKERS)],
            markersize=5,
            linewidth=1.4 if name in curves else 0,
            elinewidth=1,
            capsize=3,
            label=name,
        )
    if logarithmic:
        axes.set_xscale('log')
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(color='#dddddd', linewidth=0.6)
    axes.legend(fontsize=8)
    return figure
