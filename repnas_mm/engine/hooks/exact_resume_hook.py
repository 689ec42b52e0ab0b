"""Make a resumed run the one that was never stopped."""

from collections.abc import Callable, Iterator

from mmengine.dist import all_gather_object, all_reduce_params, get_rank, get_world_size

from ...registry import register
from ..last_checkpoint import checkpoint_due, find_last_checkpoint
from ..phases import by_iter
from ..rng import rng_state, set_rng_state
from ..runner_models import final_models
from ..worker_seeds import seed_every_batch
from .safe_load_hook import SafeLoadHook

#: Key of a checkpoint that holds the random states, one a rank
KEY = 'random_states'


@register('HOOKS')
class ExactResumeHook(SafeLoadHook):
    """Lets a resumed training, with or without a search, end bit for bit where an uninterrupted one does.

    Stock checkpoints hold weights, optimizer and schedulers. This adds the random states of all ranks, seeds
    persistent data workers batch by batch, keeps validation from changing the random numbers of the training, and
    gives all ranks the mean of their BN statistics before a checkpoint, which holds one set. A resume is exact at the
    epochs of an epoch-based loop and at the optimizer's steps of an iteration-based one, on as many ranks as before.

    A resume without a named checkpoint passes over one that a killed run left half-written.

    Example:
        >>> custom_hooks = [dict(type='ExactResumeHook')]
    """

    # after what may draw random numbers in an iteration; before CheckpointHook (VERY_LOW, 90)
    priority = 'LOW'

    def __init__(self) -> None:
        super().__init__()
        self._gathered_at: int | None = None
        self._gathered: list[dict] = []
        self._resumed: list[dict] = []
        self._to_restore: dict | None = None
        self._before_val: dict = {}

    # ---- start ----

    def before_run(self, runner) -> None:
        """Resume from the newest checkpoint that is whole, where stock MMEngine takes the newest."""
        super().before_run(runner)
        if not runner._resume or runner._load_from is not None:
            return
        runner._load_from = find_last_checkpoint(runner.work_dir)
        if runner._load_from is None:
            runner.logger.warning(f"No whole checkpoint in '{runner.work_dir}' to resume from; the run starts anew.")
            runner._resume = False

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        super().after_load_checkpoint(runner, checkpoint)
        if not runner._resume:
            return
        self._resumed = checkpoint.get(KEY, [])
        if len(self._resumed) != get_world_size():
            runner.logger.warning(
                f'The resumed run draws other random numbers than it would have: its checkpoint has the states of '
                f'{len(self._resumed)} ranks, this run has {get_world_size()}. For an exact resume, train with '
                'ExactResumeHook and on as many ranks.',
            )
            self._resumed = []
        seed = checkpoint.get('meta', {}).get('seed')
        if seed not in (None, runner.seed):
            runner.logger.warning(
                f'The data will come in another order than it would have: this run began with seed {runner.seed}, the '
                f'checkpoint is of seed {seed}. For an exact resume, set randomness.seed={seed}.',
            )

    def before_train(self, runner) -> None:
        super().before_train(runner)
        if not by_iter(runner):
            seed_every_batch(runner.train_dataloader, runner.seed, get_rank(), runner.epoch)
        if not self._resumed:
            return
        self._to_restore = self._resumed[get_rank()]
        if by_iter(runner):  # whose loop first draws all batches that it has trained on
            loop = runner.train_loop
            loop.dataloader_iterator = _Resumed(loop.dataloader_iterator, runner.iter, self._restore)

    # ---- random states, each restored where it would be used next ----

    def before_train_epoch(self, runner) -> None:
        """Restore the random state before the epoch's workers start, for which they draw a number."""
        loader = runner.train_dataloader
        if not by_iter(runner) and not (loader.num_workers > 0 and loader.persistent_workers):
            self._restore()

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Restore the random state after workers started that, without a stop, would have been there already."""
        self._restore()

    def _restore(self) -> None:
        if self._to_restore is not None:
            set_rng_state(self._to_restore)
            self._to_restore = None

    def before_val(self, runner) -> None:
        super().before_val(runner)
        self._before_val = rng_state()

    def after_val(self, runner) -> None:
        set_rng_state(self._before_val)

    # ---- checkpoints ----

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if checkpoint_due(runner, by_epoch=False):
            self._gather(runner)

    def after_train_epoch(self, runner) -> None:
        if checkpoint_due(runner, by_epoch=True):
            self._gather(runner)

    def _gather(self, runner) -> None:
        """On all ranks, bring together what is each rank's own; the main one alone writes the checkpoint."""
        self._gathered_at, self._gathered = runner.iter, all_gather_object(rng_state())
        if get_world_size() > 1:
            for model in final_models(runner):
                all_reduce_params((buffer for buffer in model.buffers() if buffer.is_floating_point()), op='mean')

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        super().before_save_checkpoint(runner, checkpoint)
        # a checkpoint out of turn is of one rank
        checkpoint[KEY] = self._gathered if self._gathered_at == runner.iter else [rng_state()]


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
        """Draw batches of no use, as the maintained fork of MMEngine asks; its own way would leave workers unseeded."""
        for _ in range(num_iters):
            next(self)
