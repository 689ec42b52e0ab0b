"""Fuse the branches when training ends, and for as long as a test runs."""

from copy import deepcopy
from functools import partial
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from ...registry import register
from ..checkpoint import run_meta, save_fused
from ..fusing import NO_BLOCKS_HINT, Fused, fuse_checked, is_fused, network_output, output_of
from ..rehearsal import rehearsal
from ..runner_models import final_models, find_blocks_of_run, renew_averages, replace_model, unwrap, warn_of_untrained
from ..training_batches import first_batch, training_inputs
from .safe_load_hook import SafeLoadHook


@register('HOOKS')
class FuseHook(SafeLoadHook):
    """Fuses every ODBB block into one convolution, checked on a real batch.

    After training it writes ``fused.pth`` and ``fused.py``, the config that loads it, into the work dir. While a test
    runs, a fused copy stands in for the model, so that what is tested is what is deployed. Either way the runner's
    model keeps its branches. A fused model whose output differs by more than 1e-4 of the largest output is refused.

    With an EMAHook the averaged weights are fused and tested.

    Example:
        >>> custom_hooks = [dict(type='FuseHook')]
    """

    # after RepNASHook has fixed the genotype, and after EMAHook has swapped in its weights for testing
    priority = 'VERY_LOW'

    def __init__(self) -> None:
        super().__init__()
        self._unfused: nn.Module | None = None  # while a test runs

    def before_run(self, runner) -> None:
        super().before_run(runner)
        self._restore(runner)  # after a test that was interrupted
        blocks = find_blocks_of_run(runner)
        if not blocks:
            raise ValueError(
                f'FuseHook found no ODBB block in {type(unwrap(runner.model)).__name__}; {NO_BLOCKS_HINT}, or remove '
                'the hook.'
            )
        searched = any(block.alpha is not None for block in blocks.values() if not block.deploy)
        if not searched and isinstance(runner.optim_wrapper, OptimWrapper | OptimWrapperDict):
            warn_of_untrained(blocks, runner)  # else RepNASHook does

    def before_train(self, runner) -> None:
        super().before_train(runner)
        renew_averages(runner)
        if not is_fused(unwrap(runner.model)):
            with rehearsal(runner, 'FuseHook') as folder:
                self._fuse(runner, folder / 'fused.pth', trained=False)

    def after_train(self, runner) -> None:
        if is_fused(unwrap(runner.model)):
            return
        path = Path(runner.work_dir) / 'fused.pth'
        fused = self._fuse(runner, path)
        if fused is not None:
            runner.logger.info(
                f'Fused model (differs from the unfused by {fused.difference:.1e} of its largest output) saved to '
                f'{path}'
            )
            if fused.new_biases:
                runner.logger.info(fused.note_on_biases())

    def _fuse(self, runner, path: Path, trained: bool = True) -> Fused | None:
        """Write a fused copy of the model and its config; None on ranks other than the main one."""
        model = deepcopy(final_models(runner)[0])
        inputs = training_inputs(model, first_batch(runner.train_dataloader))
        if not is_main_process():
            return None
        fused = fuse_checked(model, partial(output_of, inputs=inputs), trained)
        save_fused(model, path, runner.cfg, fused.new_biases, **run_meta(runner))
        return fused

    def before_test_iter(self, runner, batch_idx, data_batch=None) -> None:
        model = unwrap(runner.model)
        if batch_idx > 0 or is_fused(model):
            return
        copy = deepcopy(model)
        fused = fuse_checked(copy, partial(network_output, batch=data_batch))
        self._unfused = model
        replace_model(runner, copy)
        runner.logger.info(f'Model fused for testing (outputs differ by {fused.difference:.1e} of the largest)')

    def after_test(self, runner) -> None:
        self._restore(runner)

    def _restore(self, runner) -> None:
        if self._unfused is not None:
            replace_model(runner, self._unfused)
            self._unfused = None
