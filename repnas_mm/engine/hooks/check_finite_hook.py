"""Stop a training whose numbers have gone bad, before it saves any of them."""

from collections.abc import Mapping

from mmengine.hooks import Hook
from torch import Tensor, cat, nn

from ...registry import register
from ..divergence import find_divergence
from ..last_checkpoint import checkpoint_due, find_last_checkpoint
from ..runner_models import find_blocks_of_run, unwrap


@register('HOOKS')
class CheckFiniteHook(Hook):
    """Stops a training, with or without a search, once its loss, weights or BN statistics are NaN or infinite.

    It looks before every checkpoint, so that each one is good to go back to, at the end of every epoch and every
    ``interval`` iterations; in a search also whenever α or its gradient is not finite. The error names the branch and
    block where it began, as far as the damage shows, and the checkpoint to resume from. With a loss scaler a bad loss
    alone is no reason to stop: the scaler skips that step.

    Without this hook a search stops, too, once α is not finite, but knows only that.

    Args:
        interval (int): Iterations between two looks. Defaults to 50.

    Example:
        >>> custom_hooks = [dict(type='CheckFiniteHook')]
    """

    # before RepNASHook (55) steps α and reports it, and before CheckpointHook (VERY_LOW, 90) removes an old checkpoint
    priority = 54

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._alphas: list[nn.Parameter] = []
        self._losses: Mapping[str, Tensor] = {}

    def before_train(self, runner) -> None:
        blocks = find_blocks_of_run(runner).values()
        self._alphas = [block.alpha for block in blocks if block.alpha is not None]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._losses = outputs or {}
        alphas = [tensor for alpha in self._alphas for tensor in (alpha, alpha.grad) if tensor is not None]
        due = self.every_n_train_iters(runner, self.interval) or checkpoint_due(runner, by_epoch=False)
        if due or (alphas and not cat(alphas).isfinite().all()):
            self._check(runner)

    def after_train_epoch(self, runner) -> None:
        self._check(runner)

    def _check(self, runner) -> None:
        scaled = hasattr(runner.optim_wrapper, 'loss_scaler')
        bad = find_divergence(unwrap(runner.model), self._losses, scaled)
        if bad is not None:
            last = find_last_checkpoint(runner.work_dir)
            raise FloatingPointError(
                f'The training diverged: {bad}; {f"resume from {last!r}" if last else "start again"} with a smaller '
                'learning rate or with clip_grad.'
            )
