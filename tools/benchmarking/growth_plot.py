"""Growth of the cost with branches, images and pixels, a panel each."""

from collections.abc import Sequence

from matplotlib.figure import Figure

_COLORS = {'': '#4477aa', ', stock': '#999999'}
_LABELS = {'': 'search', ', stock': 'stock RepVGG'}


def plot_growth(rows: Sequence[dict], whats: Sequence[str]) -> Figure:
    """Rows of the benchmark's growth as one panel for each of ``whats`` and each thing they grow with."""
    axes_of = list(dict.fromkeys(row['grows with'] for row in rows))
    figure = Figure(figsize=(3.2 * len(axes_of), 2.6 * len(whats)), layout='constrained')
    panels = figure.subplots(len(whats), len(axes_of), squeeze=False, sharey='row')
    for i, what in enumerate(whats):
        for axes, grows_with in zip(panels[i], axes_of):
            curve = [row for row in rows if row['grows with'] == grows_with]
            x = [row['at'] for row in curve]
            for suffix, color in _COLORS.items():
                values = [row[what + suffix] for row in curve]
                means = [getattr(value, 'mean', value) for value in values]
                errors = [getattr(value, 'error', 0) for value in values]
                axes.errorbar(x, means, errors, color=color, marker='o', markersize=4, capsize=3, label=_LABELS[suffix])
            axes.set_xlabel(grows_with)
            axes.grid(color='#dddddd', linewidth=0.6)
        panels[i][0].set_ylabel(what)
        panels[i][0].set_ylim(bottom=0)  # last: it ends the scaling to the data, which the panels of a row share
    panels[0][0].legend(fontsize=8)
    return figure
