"""Every point of every curve can be seen."""

from benchmarking.growth_plot import plot_growth


def test_the_highest_panel_of_a_row_sets_its_scale_and_all_start_at_zero():
    rows = [
        {'grows with': what, 'at': at, 'MiB': value, 'MiB, stock': 2 * value}
        for what, values in dict(branches=(5, 10), pixels=(7, 90)).items()
        for at, value in enumerate(values)
    ]
    for axes in plot_growth(rows, ['MiB']).axes:
        bottom, top = axes.get_ylim()
        assert bottom == 0 and top > 180
