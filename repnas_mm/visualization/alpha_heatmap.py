"""The heat map of α: a column for each block, a row for each branch."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ..search.space import BRANCHES, Candidates
from .figure import to_image


def plot_alpha(alphas: Mapping[str, Tensor], candidates: Candidates) -> np.ndarray:
    """α of every block as an RGB image, (H, W, 3) uint8; branches that do not exist are left blank.

    Args:
        alphas: Block name -> α.
        candidates: Block name -> names of the branches α stands for.
    """
    rows = {branch: y for y, branch in enumerate(BRANCHES)}
    values = np.full((len(rows), len(alphas)), np.nan)
    for x, (block, alpha) in enumerate(alphas.items()):
        values[[rows[branch] for branch in candidates[block]], x] = alpha.detach().float().cpu().numpy()
    # symmetric, so that white is 0
    limit = max(float(np.nanmax(np.abs(values))), 1e-8)
    figure = Figure(figsize=(max(4.0, 2.2 + 0.25 * len(alphas)), 2.6), layout='constrained', dpi=100)
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap='RdBu_r', vmin=-limit, vmax=limit, aspect='auto', interpolation='nearest')
    axes.set_facecolor('#dddddd')
    axes.set_yticks(range(len(rows)), list(rows), fontsize=7)
    axes.set_xticks(range(len(alphas)), [str(i + 1) for i in range(len(alphas))], fontsize=6)
    axes.set_xlabel('block', fontsize=8)
    figure.colorbar(image, label='alpha')
    return to_image(figure)
