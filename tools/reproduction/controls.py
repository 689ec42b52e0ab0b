"""`Shrink` with one thing done otherwise, to measure what that thing is worth.

Importing this module registers the variants as strategies of `RepNASHook`, under their names in `VARIANTS`.
"""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

from repnas_mm.engine.absorbing import absorb_in_next_forward
from repnas_mm.engine.strategies import STRATEGIES, Shrink
from repnas_mm.search.ranking import end_variance, ranks
from repnas_mm.utils.fileio import atomic_write


class Measured(Shrink):
    """`Shrink` that writes ``cut.json``: the loss of the first batch behind the cut, without and with the cut."""

    def freeze(self, runner, data_batch):
        self.search.apply(self.search.best())
        model = deepcopy(runner.model)
        with torch.no_grad():
            before = model(**model.data_preprocessor(data_batch, True), mode='loss')['loss'].item()
        handle = runner.model.register_forward_hook(lambda _, __, losses: note(losses['loss'].item()))

        def note(after: float) -> None:
            handle.remove()
            with atomic_write(Path(runner.work_dir) / 'cut.json') as f:
                f.write(json.dumps(dict(before=before, after=after)).encode())

        return self.choose(runner, data_batch)

    def choose(self, runner, data_batch):
        """Mask of what stays, once the rest has left."""
        return super().freeze(runner, data_batch)


class RandomChoice(Measured):
    """Cuts by a ranking that knows nothing, another with each seed of the run."""

    def build(self, blocks, runner):
        built = super().build(blocks, runner)
        scores = np.random.default_rng(runner.seed).random(len(self.search.kinds))
        self.search.cut = lambda *_: self.search.keep(scores)
        return built


class RawAlpha(Measured):
    """Cuts by α itself, not drawn towards the mean of its kind."""

    def build(self, blocks, runner):
        built = super().build(blocks, runner)
        self.search.cut = lambda *_: self.search.keep(self.search.alpha_values())
        return built


class Drop(Measured):
    """Drops what leaves, where `Shrink` lets `kxk` absorb it."""

    def choose(self, runner, data_batch):
        genotype = self.search.cut(*self.alpha_optimizer.optimizer.path())
        self.search.apply(genotype)
        return genotype


class Unpinned(Drop):
    """Ranks `kxk` with the others. As it may leave, nothing is there to absorb the rest: what leaves is dropped."""

    def build(self, blocks, runner):
        built = super().build(blocks, runner)
        self.search.trunk = ''
        return built


class EqualStart(Measured):
    """Starts with γ = 1 in all branches."""

    def start(self, runner):
        self.search.apply(self.search.best())


class Gradual(Measured):
    """Lets branches leave in four steps, from a quarter of α's half of the search phase on."""

    steps_left = [0.25, 0.5, 0.75]

    def draw(self, runner):
        begin, end = self.learning(runner)
        done = (runner.iter - begin) / (end - begin)
        if self.steps_left and done >= self.steps_left[0]:
            self.steps_left = self.steps_left[1:]
            self._leave(runner, 1 / (len(self.steps_left) + 2))
        return super().draw(runner)

    def _leave(self, runner, part):
        """Let this part of what is to leave do so in the next forward."""
        search, final = self.search, self.search.num_branches
        active = np.count_nonzero(search.best())
        scores = ranks(search.alpha_values(), end_variance(*self.alpha_optimizer.optimizer.path()), search.kinds)
        search.num_branches = active - round(part * (active - final))
        kept = search.keep(scores)
        search.num_branches = final
        absorb_in_next_forward(runner.model, search.all_blocks(), search.masks_by_block(kept))

        def note(*_) -> None:
            handle.remove()
            search._start = kept

        handle = runner.model.register_forward_hook(note)


VARIANTS: dict[str, type[Measured]] = {
    'as it is': Measured,
    'random choice at the cut': RandomChoice,
    'raw alpha at the cut': RawAlpha,
    'dropped at the cut': Drop,
    'kxk not pinned': Unpinned,
    'gamma = 1 at the start': EqualStart,
    'gradual cut': Gradual,
}
STRATEGIES.update(VARIANTS)
