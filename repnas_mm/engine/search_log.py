"""The lines and pictures of a search in the log and the visualizer."""

import numpy as np
from mmengine.dist import is_main_process

from ..search.branch_search import BranchSearch
from ..visualization import plot_alpha
from .phases import PHASES


class SearchLog:
    """Reports the state of a search beside the losses, and α as a picture."""

    def __init__(self) -> None:
        #: Noise-free choice at the last report
        self.reported: np.ndarray | None = None

    def report(self, runner, search: BranchSearch, phase: str, active: np.ndarray, best: np.ndarray) -> None:
        """Add phase, number of active branches, changes of the noise-free choice and gap of α to the log."""
        scalars = dict(
            phase=PHASES.index(phase),
            branches=int(np.count_nonzero(active)),
            branches_changed=0 if self.reported is None else int(np.count_nonzero(best & ~self.reported)),
            alpha_gap=search.alpha_gap(best),
        )
        self.reported = best
        for name, value in scalars.items():
            runner.message_hub.update_scalar(f'train/{name}', value)

    def plot_alpha(self, runner, search: BranchSearch) -> None:
        """Add α's heat map to the visualizer."""
        if is_main_process():
            alphas = {name: block.alpha for name, block in search.blocks.items()}
            runner.visualizer.add_image('alpha', plot_alpha(alphas, search.candidates), runner.iter + 1)
