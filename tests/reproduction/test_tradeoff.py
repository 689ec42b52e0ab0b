"""Curves are lines through their points in order of x, points are not joined, errors are bars of their own length."""

import matplotlib.container
import numpy as np

from reproduction.tradeoff import plot_tradeoff

CURVE = {'odbb': [(52, 91.0, 0.3), (39, 90.0, 0.1)]}
POINTS = {'acb': [(39, 89.5, 0.0)], 'dbb': [(52, 90.5, 0.2)]}


def test_every_value_is_drawn():
    figure = plot_tradeoff(CURVE, POINTS, 'branches', 'top-1 (%)')
    (axes,) = figure.axes
    drawn = {c.get_label(): c for c in axes.containers if isinstance(c, matplotlib.container.ErrorbarContainer)}
    assert list(drawn) == ['odbb', 'acb', 'dbb']
    line, _, bars = drawn['odbb']
    np.testing.assert_array_equal(line.get_xydata(), [(39, 90), (52, 91)])
    np.testing.assert_allclose(bars[0].get_segments(), [[(39, 89.9), (39, 90.1)], [(52, 90.7), (52, 91.3)]])
    assert line.get_linewidth() > 0 and drawn['acb'][0].get_linewidth() == 0
    assert not drawn['acb'].has_yerr
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ('branches', 'top-1 (%)', 'linear')


def test_logarithmic_axis():
    (axes,) = plot_tradeoff(CURVE, {}, 's', '%', logarithmic=True).axes
    assert axes.get_xscale() == 'log'
