"""Watch a search: an animation of α and of the branches kept, and the latency before and after fusing.

Runs `configs/odbb_digits.py` on scikit-learn's digits, a minute or two on two CPU cores, and writes
WORK_DIR/live_search.gif.
"""

import argparse
from itertools import compress, pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mmengine.hooks import Hook
from PIL import Image

from repnas_mm.engine.hooks import RepNASHook
from repnas_mm.search import BRANCHES, Genotype
from repnas_mm.utils import atomic_write
from repnas_mm.visualization.figure import to_image
from runs import CONFIGS, latency_before_and_after_fusing, load_config, train

CONFIG = CONFIGS / 'odbb_digits.py'
#: How long a frame and the last one stay, in milliseconds
FRAME, LAST_FRAME = 700, 4000


class SearchRecorder(Hook):
    """Remembers α and the branches kept at the start and after every epoch."""

    def __init__(self):
        self.frames: list[dict] = []

    def before_train(self, runner) -> None:
        self.searcher = next(hook for hook in runner.hooks if isinstance(hook, RepNASHook))
        self._remember(runner, 'start')

    def after_train_epoch(self, runner) -> None:
        self._remember(runner, self.searcher.phase(runner))

    def _remember(self, runner, phase: str) -> None:
        search = self.searcher.search
        epoch = 0 if phase == 'start' else runner.epoch + 1
        kept = self.searcher.best()
        self.frames.append(
            dict(epoch=epoch, phase=phase, alpha=self._grid(search.alpha_values()), kept=self._grid(kept))
        )

    def _grid(self, values: np.ndarray) -> np.ndarray:
        """(branches, blocks), NaN where a branch does not exist."""
        search = self.searcher.search
        grid = np.full((len(BRANCHES), len(search.candidates)), np.nan)
        names = [branch for branches in search.candidates.values() for branch in branches]
        grid[[[*BRANCHES].index(name) for name in names], search.block_ids] = values
        return grid


def changes(frames: list[dict]) -> list[dict]:
    """Leave out all frames between the first and the last that show what the one before shows."""
    new = [
        any(not np.array_equal(frame[key], before[key], equal_nan=True) for key in ('alpha', 'kept'))
        for before, frame in pairwise(frames[:-1])
    ]
    return [frames[0], *compress(frames[1:-1], new), frames[-1]]


def animate(frames: list[dict], path: Path, ending: str) -> None:
    """Write the frames as a GIF, the last one with the line ``ending``."""
    limit = max(np.nanmax(np.abs(frame['alpha'])) for frame in frames)
    branches, blocks = frames[0]['alpha'].shape
    figure = Figure(figsize=(6.4, 3.6), layout='constrained', dpi=80)
    axes = figure.add_subplot()
    image = axes.imshow(frames[0]['alpha'], cmap='RdBu_r', vmin=-limit, vmax=limit, aspect='auto')
    (dots,) = axes.plot([], [], 'o', color='black', markersize=5)
    axes.set_facecolor('#dddddd')
    axes.set_yticks(range(branches), [*BRANCHES])
    axes.set_xticks(range(blocks), [str(i + 1) for i in range(blocks)])
    axes.set_xlabel('block')
    title = axes.set_title('\n')
    figure.colorbar(image, label='α')

    pictures = []
    for frame in frames:
        image.set_data(frame['alpha'])
        y, x = np.nonzero(np.nan_to_num(frame['kept']))
        dots.set_data(x, y)
        now = 'at the start' if frame['phase'] == 'start' else f'after epoch {frame["epoch"]}, {frame["phase"]}'
        title.set_text(f'{len(x)} branches kept (●) {now}\n{ending if frame is frames[-1] else ""}')
        pictures.append(Image.fromarray(to_image(figure)))
    milliseconds = [FRAME] * (len(frames) - 1) + [LAST_FRAME]
    with atomic_write(path) as file:
        pictures[0].save(file, 'GIF', save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/live_search'))
    args = parser.parse_args(argv)
    cfg, watch = load_config(CONFIG), SearchRecorder()
    train(cfg, args.work_dir, watch)
    batch_size = cfg.train_dataloader.batch_size
    unfused, fused = latency_before_and_after_fusing(cfg, batch_size)
    ending = f'{batch_size} images: {unfused:.1f} ms with branches, {fused:.1f} ms fused'
    animate(changes(watch.frames), args.work_dir / 'live_search.gif', ending)
    print(f'\n{Genotype.load(args.work_dir / "genotype.json")}\n{ending}\n{args.work_dir / "live_search.gif"}')


if __name__ == '__main__':
    main()
