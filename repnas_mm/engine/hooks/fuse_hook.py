"""Fuse the branches when training ends and before testing starts."""

import os.path as osp
from copy import deepcopy
from functools import partial
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from ...models.convert import leave_shared_plain
from ...registry import register
from ...search.space import find_blocks
from ..checkpoint import run_meta, save_fused
from ..fusing import NO_BLOCKS_HINT, fuse_checked, is_fused, network_output
from ..runner_models import final_models, renew_averages, unwrap


@register('HOOKS')
class FuseHook(Hook):
    """Fuses every ODBB block into one convolution, checked on a real batch.

    After training it writes ``fused.pth`` and ``fused.py``, the config that loads it, into the work dir; the model in
    memory keeps its branches. Before testing it fuses the model in memory, so that what is tested is what is deployed.
    A fused model whose output differs by more than 1e-4 of the largest output is refused.

    With an EMAHook the averaged weights are fused; before testing both copies are, since that hook swaps them.

    Example:
        >>> custom_hooks = [dict(type='FuseHook')]
    """

    # after RepNASHook has settled the genotype, and after EMAHook has swapped in its weights for testing
    priority = 'VERY_LOW'

    def before_run(self, runner) -> None:
        model = unwrap(runner.model)
        for copy in final_models(runner):
            leave_shared_plain(copy)
        if not find_blocks(model):
            raise ValueError(
                f'FuseHook found no ODBB block in {type(model).__name__}; {NO_BLOCKS_HINT}, or remove the hook.'
            )

    def before_train(self, runner) -> None:
        renew_averages(runner)

    def after_train(self, runner) -> None:
        if is_fused(unwrap(runner.model)) or not is_main_process():
            return
        model = deepcopy(final_models(runner)[0])
        loader = runner.train_dataloader
        # straight from the dataset: an InfiniteSampler cannot be iterated a second time
        batch = loader.collate_fn([loader.dataset[i] for i in range(min(8, len(loader.dataset)))])
        fused = fuse_checked(model, partial(network_output, batch=batch))
        path = Path(osp.join(runner.work_dir, 'fused.pth'))
        save_fused(model, path, runner.cfg, fused.new_biases, **run_meta(runner))
        runner.logger.info(
            f'Fused model (differs from the unfused by {fused.difference:.1e} of its largest output) saved to {path}'
        )

    def before_test_iter(self, runner, batch_idx, data_batch=None) -> None:
        if batch_idx > 0 or is_fused(unwrap(runner.model)):
            return
        *averages, model = final_models(runner)
        fused = fuse_checked(model, partial(network_output, batch=data_batch), *averages)
        runner.logger.info(f'Model fused for testing (outputs differ by {fused.difference:.1e} of the largest)')
