"""Figures as files and as arrays, without touching the user's matplotlib state."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..utils.fileio import atomic_write


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Write the figure as PNG and as SVG, under ``path`` with these suffixes; returns both paths."""
    stem = str(path).removesuffix('.png').removesuffix('.svg')
    paths = [Path(f'{stem}.png'), Path(f'{stem}.svg')]
    for target in paths:
        # a fixed salt and no date: the same figure is the same file
        with atomic_write(target) as f, matplotlib.rc_context({'svg.hashsalt': 'repnas_mm'}):
            metadata = {'Date': None} if target.suffix == '.svg' else None
            figure.savefig(f, format=target.suffix[1:], dpi=150, metadata=metadata)
    return paths


def to_image(figure: Figure) -> np.ndarray:
    """The figure as an RGB image, (H, W, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
