"""The heat map of alpha is an image of the numbers and nothing else."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from repnas_mm.search import BRANCHES
from repnas_mm.visualization import plot_alpha

CANDIDATES = {'a': tuple(BRANCHES), 'b': tuple(BRANCHES)[:-1], 'c': tuple(BRANCHES)}


def alphas(scale: float = 1.0) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {name: scale * torch.randn(len(names), generator=generator) for name, names in CANDIDATES.items()}


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of every imshow."""
    calls = []
    original = matplotlib.axes.Axes.imshow

    def imshow(self, values, **kwargs):
        calls.append((np.array(values), kwargs))
        return original(self, values, **kwargs)

    monkeypatch.setattr(matplotlib.axes.Axes, 'imshow', imshow)
    return calls


def test_it_is_an_rgb_image():
    image = plot_alpha(alphas(), CANDIDATES)
    assert image.dtype == np.uint8
    assert image.ndim == 3 and image.shape[2] == 3 and min(image.shape[:2]) > 100
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10


def test_every_alpha_is_at_its_block_and_branch_and_missing_ones_are_blank(drawn):
    values = alphas()
    plot_alpha(values, CANDIDATES)
    ((shown, _),) = drawn
    assert shown.shape == (len(BRANCHES), len(CANDIDATES))
    for x, (block, names) in enumerate(CANDIDATES.items()):
        for y, branch in enumerate(BRANCHES):
            if branch in names:
                assert shown[y, x] == values[block][names.index(branch)]
            else:
                assert np.isnan(shown[y, x])


def test_zero_is_the_middle_of_the_colors(drawn):
    values = alphas()
    plot_alpha(values, CANDIDATES)
    ((_, kwargs),) = drawn
    assert kwargs['vmax'] == -kwargs['vmin'] == pytest.approx(max(a.abs().max().item() for a in values.values()))


def test_alphas_that_are_all_zero_are_drawn():
    assert plot_alpha(alphas(0.0), CANDIDATES).dtype == np.uint8


def test_the_same_alphas_are_the_same_image():
    assert np.array_equal(plot_alpha(alphas(), CANDIDATES), plot_alpha(alphas(), CANDIDATES))
    assert not np.array_equal(plot_alpha(alphas(), CANDIDATES), plot_alpha(alphas(-1.0), CANDIDATES))


def test_the_users_matplotlib_is_left_alone():
    figures, backend, settings = plt.get_fignums(), matplotlib.get_backend(), dict(matplotlib.rcParams)
    plot_alpha(alphas(), CANDIDATES)
    assert (plt.get_fignums(), matplotlib.get_backend(), dict(matplotlib.rcParams)) == (figures, backend, settings)


def test_pyplot_is_not_even_asked(monkeypatch):
    monkeypatch.setattr(plt, 'figure', lambda *_, **__: pytest.fail('pyplot made a figure'))
    plot_alpha(alphas(), CANDIDATES)
