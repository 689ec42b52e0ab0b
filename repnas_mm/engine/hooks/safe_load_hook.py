"""A runner reads MMEngine's own checkpoints under torch's safe loader, and writes ones that any tool reads."""

from contextlib import ExitStack

from mmengine.hooks import Hook

from ...models.foreign import check_prefix
from ...registry import register
from ..log_history import log_history_allowed, plain_history, restore_history
from ..paramwise import reach_blocks
from ..plain import plain
from ..runner_models import unwrap


@register('HOOKS')
class SafeLoadHook(Hook):
    """Lets a runner load and resume MMEngine's own checkpoints with torch 2.6 or newer, without running code in them.

    Such a checkpoint holds the log history as pickled objects, which torch refuses since then
    (`repnas_mm.engine.log_history`). They are let through from ``before_run`` until the first loop begins, which is
    when a runner loads. In the checkpoints that this run writes, the history is tensors and all else that is not
    weights plain Python, which stock inferencers and converters read with any torch; a stock run that resumes from one
    starts its log history anew. The other hooks of this package do the same; this one is for runs without them.

    Example:
        >>> custom_hooks = [dict(type='SafeLoadHook')]
    """

    def __init__(self) -> None:
        self._loading = ExitStack()

    def before_run(self, runner) -> None:
        self._loading.enter_context(log_history_allowed())
        reach_blocks(runner)

    def before_train(self, runner) -> None:
        self._loading.close()

    def before_val(self, runner) -> None:
        self._loading.close()

    def before_test(self, runner) -> None:
        self._loading.close()

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint['message_hub'] = plain_history(checkpoint['message_hub'])
        for key in ('meta', 'optimizer', 'param_schedulers'):
            if key in checkpoint:
                checkpoint[key] = plain(checkpoint[key])

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        check_prefix(checkpoint.get('state_dict', checkpoint), unwrap(runner.model))
        if 'message_hub' in checkpoint:
            restore_history(checkpoint['message_hub'])
        meta = checkpoint.get('meta', {})
        if runner._resume and 'dataset_meta' in meta:
            own = getattr(runner.train_dataloader.dataset, 'metainfo', None)
            if repr(plain(meta['dataset_meta'])) == repr(plain(own)):
                meta['dataset_meta'] = own  # the runner warns where its pickle is another one, such as a list's
