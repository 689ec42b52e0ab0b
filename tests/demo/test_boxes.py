"""Boxes on images: a row of pictures for each kind of box."""

import numpy as np

from boxes import plot_boxes


def test_every_box_is_drawn_where_it_is_with_its_text():
    images = [np.zeros((20, 30, 3), np.uint8)] * 2
    annotations = [[((1, 2, 11, 7), 'a')], []]
    found = [[], [((0, 0, 5, 5), 'b'), ((9, 9, 30, 20), 'c')]]
    figure = plot_boxes(images, {'annotations': annotations, 'found': found})
    drawn = [
        ([patch.get_bbox().extents.tolist() for patch in axes.patches], [text.get_text() for text in axes.texts])
        for axes in figure.axes
    ]
    assert drawn == [([[1, 2, 11, 7]], ['a']), ([], []), ([], []), ([[0, 0, 5, 5], [9, 9, 30, 20]], ['b', 'c'])]
    assert [axes.get_ylabel() for axes in figure.axes] == ['annotations', '', 'found', '']


def test_pixels_are_squares_from_zero():
    axes = plot_boxes([np.zeros((20, 30, 3), np.uint8)], {'none': [[]]}).axes[0]
    assert axes.get_xlim() == (0, 30) and axes.get_ylim() == (20, 0)
