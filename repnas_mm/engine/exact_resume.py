"""What a resumed run needs, beyond a stock checkpoint, to be the run that was never stopped."""

from collections.abc import Callable, Iterator

from mmengine.dist import all_gather_object, all_reduce_params, get_rank, get_world_size
from mmengine.runner import IterBasedTrainLoop

from ..checks import refusing
from .rng import rng_state, set_rng_state
from .runner_models import final_models
from .worker_seeds import seed_every_batch


class ExactResume:
    """Keeps the random states of all ranks and of data workers.

    Exact at the epochs of an epoch-based loop and at the optimizer's steps of an iteration-based one, on as many ranks
    as before.
    """

    def __init__(self):
        self._gathered: tuple[int, list[dict]] | None = None
        self._resumed: dict | None = None

    def gather(self, runner) -> None:
        """On all ranks, right before a checkpoint, which the main one writes: bring together what is each rank's own.

        That is its random state, and the BN statistics, of which a checkpoint holds one set: all ranks take the mean.
        """
        self._gathered = runner.iter, all_gather_object(rng_state())
        if get_world_size() > 1:
            for model in final_models(runner):
                all_reduce_params((buffer for buffer in model.buffers() if buffer.is_floating_point()), op='mean')

    def state(self, runner) -> list[dict]:
        """Random states by rank."""
        if self._gathered is not None and self._gathered[0] == runner.iter:
            return self._gathered[1]
        return [rng_state()]  # a checkpoint out of turn, on one rank

    def start(self, runner, states: list[dict] | None) -> None:
        """Before the training loop.

        Args:
            runner: Whose epoch and iteration are those to go on from.
            states: From the checkpoint; None if this is no resume.
        """
        loader, loop = runner.train_dataloader, runner.train_loop
        by_iter = isinstance(loop, IterBasedTrainLoop)
        if not by_iter:
            seed_every_batch(loader, runner.seed, get_rank(), runner.epoch)
        if not isinstance(states, list) or len(states) != get_world_size():
            return
        self._resumed = states[get_rank()]
        # an iteration-based loop first draws all batches that it has trained on
        if by_iter:
            loop.dataloader_iterator = _Resumed(loop.dataloader_iterator, runner.iter, self._restore)

    def before_epoch(self, runner) -> None:
        """Before the epoch's workers start, for which they draw a number."""
        loader = runner.train_dataloader
        by_iter = isinstance(runner.train_loop, IterBasedTrainLoop)
        if not by_iter and not (loader.num_workers > 0 and loader.persistent_workers):
            self._restore()

    def before_iter(self) -> None:
        """After workers started that, without a stop, would have been there already."""
        self._restore()

    def _restore(self) -> None:
        if self._resumed is not None:
            with refusing("The checkpoint's random state is damaged"):
                set_rng_state(self._resumed)
            self._resumed = None


class _Resumed:
    """Batches of an iteration-based loop, with the random state restored after those that it skips."""

    def __init__(self, batches: Iterator, skip: int, restore: Callable[[], None]):
        self.batches, self.left, self.restore = batches, skip, restore

    def __iter__(self):
        return self

    def __next__(self):
        if self.left == 0:
            self.restore()
        self.left -= 1
        return next(self.batches)

    def skip_iter(self, num_iters: int) -> None:
        """What the maintained fork of MMEngine calls; its own, which loads nothing, would leave workers unseeded."""
        for _ in range(num_iters):
            next(self)
