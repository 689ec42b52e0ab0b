"""Pictures with boxes, to compare annotations and detections by eye."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

#: One box: (x1, y1, x2, y2) in pixels and what is written above it.
Box = tuple[Sequence[float], str]


def plot_boxes(images: Sequence[np.ndarray], rows: Mapping[str, Sequence[Sequence[Box]]]) -> Figure:
    """The images side by side, once a row, each row with boxes of its own.

    Args:
        images: (H, W, 3) uint8 RGB.
        rows: Title of the row -> for each image its boxes.
    """
    figure = Figure(figsize=(2 * len(images), 2.15 * len(rows)), layout='constrained', dpi=150)
    grid = figure.subplots(len(rows), len(images), squeeze=False)
    for line, (title, boxes) in zip(grid, rows.items()):
        line[0].set_ylabel(title, fontsize=8)
        for axes, image, found in zip(line, images, boxes):
            # pixel i covers i to i + 1, as in the boxes
            axes.imshow(image, extent=(0, image.shape[1], image.shape[0], 0), interpolation='nearest')
            axes.set_xticks([])
            axes.set_yticks([])
            for (x1, y1, x2, y2), text in found:
                axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor='white', linewidth=0.7))
                label = dict(facecolor='black', alpha=0.6, edgecolor='none', pad=0.6)
                # inside the image, also for a box at its border
                axes.text(max(x1, 1), max(y1, 6), text, color='white', fontsize=5, va='bottom', bbox=label)
    return figure
