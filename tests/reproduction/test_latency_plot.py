"""A bar for every network and way of measuring, as long as its seconds, the first network at the top."""

import pytest

from reproduction.latency_plot import plot_latency


def test_bars_are_the_seconds():
    (axes,) = plot_latency({'NCHW': {'a': 0.5, 'b': 2.0}, 'channels_last': {'a': 0.25, 'b': 1.0}}, 'seconds').axes
    bars = {c.get_label(): [bar.get_width() for bar in c] for c in axes.containers}
    assert bars == {'NCHW': [0.5, 2.0], 'channels_last': [0.25, 1.0]}
    assert [label.get_text() for label in axes.get_yticklabels()] == ['a', 'b']
    assert axes.yaxis_inverted() and axes.get_xlabel() == 'seconds'
    middles = [[bar.get_y() + bar.get_height() / 2 for bar in c] for c in axes.containers]
    assert [sum(pair) / 2 for pair in zip(*middles)] == pytest.approx([0, 1])
