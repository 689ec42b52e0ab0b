"""The three phases of a training with a search, counted in the unit of its loop."""

from mmengine.runner import IterBasedTrainLoop

from ..checks import is_count, quote

#: In this order; the log shows a phase by its number
PHASES = ('warmup', 'search', 'frozen')


class Phases:
    """Lengths of the phases, from which follows the one that a runner is in.

    Args:
        warmup (int): Length of the warm-up, in epochs of an epoch-based loop and iterations of an iter-based one.
        frozen (int, optional): Length of the frozen phase, in the same unit. None: 80 % of what follows the warm-up.
    """

    def __init__(self, warmup: int, frozen: int | None):
        for name, length in (('warmup', warmup), ('frozen', 0 if frozen is None else frozen)):
            if not is_count(length, 0):
                raise ValueError(f'{name} of RepNASHook must be a number of epochs or iterations, got {quote(length)}.')
        self.warmup, self.frozen = warmup, frozen

    def now(self, runner) -> str:
        """Name the phase that the next iteration belongs to."""
        now, total = (runner.iter, runner.max_iters) if by_iter(runner) else (runner.epoch, runner.max_epochs)
        return 'warmup' if now < self.warmup else 'search' if now < total - self.frozen_of(total) else 'frozen'

    def frozen_of(self, total: int) -> int:
        """Length of the frozen phase in a training of so many epochs or iterations."""
        if self.frozen is not None:
            return self.frozen
        left = total - self.warmup
        return max(1, min(round(0.8 * left), left - 1))

    def search_span(self, runner) -> tuple[int, int]:
        """Numbers of the first iteration of the search phase and of the first behind it.

        Raises:
            ValueError: if there is none.
        """
        total, unit = (runner.max_iters, 'iterations') if by_iter(runner) else (runner.max_epochs, 'epochs')
        frozen = self.frozen_of(total)
        if total - self.warmup - frozen < 1:
            raise ValueError(
                f'warmup={self.warmup} and frozen={frozen} leave no search phase in {total} {unit}; shorten them or '
                'train longer.'
            )
        length = 1 if by_iter(runner) else len(runner.train_dataloader)
        return self.warmup * length, (total - frozen) * length


def by_iter(runner) -> bool:
    """Return True if the runner's training loop counts iterations, not epochs."""
    return isinstance(runner.train_loop, IterBasedTrainLoop)
