"""RepNAS as a training schedule: choose branches, train, step α, report."""

import os.path as osp
from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import LoggerHook
from torch import Tensor, nn

from ...models.survey import summary
from ...registry import register
from ...search.block import find_blocks
from ...search.branch_search import BranchSearch
from ...search.genotype import Genotype
from ...utils.fileio import check_writable
from ..alpha_optimizer import AlphaOptimizer
from ..checkpoint import run_meta
from ..export import export_search
from ..fusing import NO_BLOCKS_HINT
from ..input_watch import InputWatch
from ..param_groups import check_same_groups, merge_groups
from ..recalibrate import recalibrate
from ..rehearsal import rehearsal
from ..runner_models import (
    check_unused_parameters,
    copy_to_waiting_averages,
    final_models,
    find_blocks_of_run,
    find_followers,
    renew_averages,
    unwrap,
    warn_of_untrained,
)
from ..search_log import SearchLog
from ..search_state import SearchState, check_searchable, read_search_state
from ..strategies import PAPER_OPTIMIZER, build_strategy
from ..training_batches import first_batch, training_inputs
from ..val_statistics import ValStatistics
from .safe_load_hook import SafeLoadHook


@register('HOOKS')
class RepNASHook(SafeLoadHook):
    """Searches the branches of all ODBB blocks while the model trains.

    Five kinds of branches train until the *search* phase ends, validation included; α learns in the second half of
    that phase. Then the lowest-ranked branches leave at once, without a change of what the model computes: `kxk`,
    which every block keeps, absorbs them. In *frozen* the branches that stay train on. Blocks need weights of their
    own for each branch, as they have by default; where these do not all fit ``memory``, they recompute until the cut.
    At the end the work dir holds ``genotype.json``, its picture, and the multi-branch subnet ``subnet.pth`` with the
    config ``subnet.py`` that loads it.

    That is ``strategy='shrink'``. ``strategy='sample'`` is the paper's Algorithm 1, for schedules long enough to draw
    in. In *warmup* the branches are drawn by noise and α is not stepped. In *search* every iteration draws the noise,
    keeps the best branches of the whole model, and steps α beside the weights. In *frozen* the genotype stands and BN
    statistics are gathered anew; without a frozen phase the subnet's are recalibrated on training images at the end.
    Validation always uses the best branches by α, without noise, and BN statistics of theirs.

    The log shows ``phase`` (0 warmup, 1 search, 2 frozen), ``branches`` (active ones), ``branches_changed`` (newly in
    the noise-free choice since the last report) and ``alpha_gap`` (mean α of the kept minus that of the dropped).

    Args:
        num_branches (int, optional): C, the number of branches to keep over all blocks.
        memory (int | str, optional): Or the bytes of activations to save for backward on each rank, such as
            ``'6GiB'``, in every iteration: blocks are measured again whenever inputs grow, and once the branches are
            frozen they recompute where they must. Exactly one of the two must be given.
        warmup (int): Length of the warm-up, in epochs of an epoch-based loop and iterations of an iter-based one.
            Defaults to 0.
        frozen (int, optional): Length of the frozen phase, in the same unit. Defaults to None: 80 % of what follows
            the warm-up, and 0 for ``'sample'``.
        temperature (float): λ of Eq. 11, of ``'sample'``. Defaults to 1.
        alpha_optimizer (dict): Optimizer of α, of ``'sample'``. Defaults to Adam with lr 1e-4 and betas (0.5, 0.999).
        strategy (str): ``'shrink'`` or ``'sample'``. Defaults to ``'shrink'``.
        candidates (Sequence[str], optional): Branches that ``'shrink'`` starts with, ``kxk`` among them. Defaults to
            None: all but ``1x1_kxk`` and ``1x1_avg``, which make a step more than twice as long.
        recalibrate_val (int): Of ``'sample'``: training images, over all ranks, that give each validation before the
            freeze its BN statistics. Those of the training are of a mixture of networks, with which accuracies are far
            too low. Costs one forward pass an image, without gradients. 0: none. Defaults to 1024.

    Example:
        >>> custom_hooks = [dict(type='RepNASHook', num_branches=61), dict(type='FuseHook')]
        >>> custom_hooks = [dict(type='RepNASHook', strategy='sample', num_branches=66)]
    """

    # after EMAHook (NORMAL, 50), whose swaps include the active branches; before LoggerHook (BELOW_NORMAL, 60)
    priority = 55

    def __init__(
        self,
        num_branches: int | None = None,
        memory: int | str | None = None,
        warmup: int = 0,
        frozen: int | None = None,
        temperature: float = 1.0,
        alpha_optimizer: dict = PAPER_OPTIMIZER,
        strategy: str = 'shrink',
        candidates: Sequence[str] | None = None,
        recalibrate_val: int = 1024,
    ):
        super().__init__()
        self.val_statistics = ValStatistics(recalibrate_val)
        self.num_branches, self.memory = num_branches, memory
        self.alpha_optimizer_cfg, self.strategy_name = alpha_optimizer, strategy
        settings = num_branches, memory, temperature, alpha_optimizer, candidates
        self.strategy = build_strategy(strategy, warmup, frozen, *settings)
        self._search: BranchSearch | None = None
        self._alpha_optimizer: AlphaOptimizer | None = None
        # the branches of the current iteration, and ζ where α is to learn from them
        self._mask = np.empty(0, dtype=bool)
        self._noise: Tensor | None = None
        self._sample_next = True
        self._best: np.ndarray | None = None  # while a validation runs
        self._genotype: np.ndarray | None = None  # once it is frozen
        self._log, self._log_interval = SearchLog(), 0
        self._resumed: SearchState | None = None
        self._learning: tuple[int, int] | None = None  # by the schedule of the run so far
        self._uncompiled = ExitStack()

    @property
    def search(self) -> BranchSearch:
        """The state of the search, from ``before_run`` of a training on."""
        assert self._search is not None
        return self._search

    @property
    def alpha_optimizer(self) -> AlphaOptimizer:
        """The optimizer of α, from ``before_run`` of a training on."""
        assert self._alpha_optimizer is not None
        return self._alpha_optimizer

    # ---- start ----

    def before_run(self, runner) -> None:
        """Take α out of the main optimizer; this early, because a resume loads that optimizer's state next."""
        super().before_run(runner)
        self.val_statistics.drop()  # after a validation that was interrupted
        if self._search is not None:
            return  # a test after the training of the same runner
        wrapper = runner.optim_wrapper
        if wrapper is None or isinstance(wrapper, dict):
            return  # not built: validation or test only
        check_writable(runner.work_dir)
        blocks = {name: block for name, block in find_blocks_of_run(runner).items() if block.searchable}
        if not blocks:
            raise ValueError(
                f'RepNASHook found no block to search in {type(unwrap(runner.model)).__name__}; {NO_BLOCKS_HINT}, '
                'without genotype and deploy, and neither frozen nor with frozen BNs, or remove the hook.'
            )
        check_unused_parameters(runner.model)
        warn_of_untrained(blocks, runner)
        self._search, self._alpha_optimizer = self.strategy.build(blocks, runner)
        merge_groups(runner)
        self._search.copies = find_followers(runner, blocks)
        self._inputs = InputWatch(self._search)
        runner.logger.info('\n'.join(summary(unwrap(runner.model), blocks.values())))
        self._log_interval = next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 0)

    def before_train(self, runner) -> None:
        super().before_train(runner)
        renew_averages(runner)
        if self._resumed is None:
            self.strategy.start(runner)
        else:
            self._resume(self._resumed)
            self._resumed = None
        if self._genotype is None:
            self.strategy.go_on(runner, self._learning)
            self._learning = self.strategy.learning(runner)
        self._rehearse(runner)

    def _rehearse(self, runner) -> None:
        """Try what ends the search and what writes its result, on copies."""
        with rehearsal(runner, 'RepNASHook') as folder:
            *_, model = final_models(runner)
            self._export(runner, model, folder)
            if self._genotype is None:
                self.strategy.rehearse(runner, deepcopy(model), first_batch(runner.train_dataloader))

    def _resume(self, state: SearchState) -> None:
        self.search.load_state_dict(state['search'], state['genotype'])
        self.alpha_optimizer.load_state_dict(state['alpha_optimizer'])
        self._learning = state['learning']
        if state['logged'] is not None:
            self._log.reported = np.array(state['logged'])
        if state['genotype'] is not None:
            self._genotype = np.array(state['genotype'])
            found = int(np.count_nonzero(self._genotype))
            if self.num_branches not in (None, found):
                raise ValueError(
                    f'The search of the checkpoint has ended with {found} branches, which '
                    f'num_branches={self.num_branches} cannot change; set num_branches={found}, or start a new search.'
                )
            self._apply(self._genotype)

    # ---- one iteration ----

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Choose the branches of this iteration, or of this accumulation of gradients."""
        phase = self.phase(runner)
        if self.search.memory is not None:
            ends = phase == 'frozen' and self._genotype is None  # then blocks absorb in the next forward
            if ends or self.search.needs_input_shapes():
                self._inputs.look(runner, training_inputs(unwrap(runner.model), data_batch), None)
            if not ends:
                self._inputs.before_forward(runner, lambda inputs: self._look(runner, inputs))
        if phase == 'frozen' and self._genotype is None:
            if runner.cfg.get('compile'):  # a compiled step would pass by the hooks in which blocks absorb
                self._uncompiled.enter_context(torch.compiler.set_stance('force_eager'))
            self._mask = self._genotype = self.strategy.freeze(runner, data_batch)
            self._noise = None
        elif phase != 'frozen' and self._sample_next:
            self._apply(*self.strategy.draw(runner))
            self._sample_next = False

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Let the next iteration draw anew where an accumulation of gradients has ended, and report."""
        self._uncompiled.close()
        if runner.optim_wrapper.should_update():
            self._sample_next = True
            copy_to_waiting_averages(runner, self.search.blocks)
        last = self.every_n_train_iters(runner, len(runner.train_dataloader))
        if last or self.every_n_inner_iters(batch_idx, self._log_interval):
            self._log.report(runner, self.search, self.phase(runner), self._mask, self.best())
        if last and self.alpha_optimizer.moved:
            self._log.plot_alpha(runner, self.search)
            self.alpha_optimizer.moved = False

    def _look(self, runner, inputs) -> None:
        if self._inputs.look(runner, inputs, self._genotype) and self._genotype is None:
            self._apply(self.search.keep_again(), self._noise)

    def _apply(self, mask: np.ndarray, noise: Tensor | None = None) -> None:
        self._mask, self._noise = mask, noise
        self.search.apply(mask, noise)

    # ---- phases ----

    def phase(self, runner) -> str:
        """``warmup``, ``search`` or ``frozen``: by the loop's own unit, and ``frozen`` for good once a genotype is."""
        return self.strategy.phases.now(runner) if self._genotype is None else 'frozen'

    def best(self) -> np.ndarray:
        """Mask (number of candidates,) of the genotype: the frozen one, or the noise-free choice by α."""
        return self.search.best() if self._genotype is None else self._genotype

    # ---- validation: the noise-free choice ----

    def before_val(self, runner) -> None:
        super().before_val(runner)
        if self._search is not None:
            self._best = self.best()  # now, while α is the raw one: before_val_epoch is after EMAHook's swap

    def before_val_epoch(self, runner) -> None:
        if self._best is not None:
            self.search.apply(self._best)
            if self._genotype is None and self.strategy.mixes_statistics:
                self.val_statistics.gather(runner)

    def after_val_epoch(self, runner, metrics=None) -> None:
        self.val_statistics.drop()
        if self._mask.size:
            self.search.apply(self._mask, self._noise)

    # ---- checkpoints ----

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Add the search's own state, and make the saved blocks compute the genotype rather than the last sample."""
        super().before_save_checkpoint(runner, checkpoint)
        if self._search is None:
            return
        for block, mask in self.search.masks_by_block(self.best()).items():
            checkpoint['state_dict'][f'{block}.active'] = mask
            if 'ema_state_dict' in checkpoint:
                checkpoint['ema_state_dict'][f'module.{block}.active'] = mask.clone()
        checkpoint['repnas'] = SearchState(
            strategy=self.strategy_name,
            search=self.search.state_dict(),
            alpha_optimizer=self.alpha_optimizer.state_dict(),
            learning=self._learning,
            genotype=None if self._genotype is None else self._genotype.tolist(),
            logged=None if self._log.reported is None else self._log.reported.tolist(),
        )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        super().after_load_checkpoint(runner, checkpoint)
        if self._search is None:
            return
        check_searchable(checkpoint, self.search.blocks)
        if runner._resume:
            self._resumed = read_search_state(checkpoint, self.strategy_name)
            check_same_groups(checkpoint, unwrap(runner.model), runner.optim_wrapper.optimizer)

    # ---- export ----

    def after_train(self, runner) -> None:
        """Set every copy of the model to the genotype, then export genotype, picture and subnet."""
        models = final_models(runner)
        for model in models:
            blocks = find_blocks(model)
            for name, active in self.search.masks_by_block(self.best()).items():
                blocks[name].set_active(active)
        if self._genotype is None:
            recalibrate(models[0], runner.train_dataloader)
        genotype = self._export(runner, models[0], Path(runner.work_dir))
        if genotype is not None:
            runner.logger.info(f'{genotype} saved to {runner.work_dir}: genotype.json, its picture, subnet.pth')

    def _export(self, runner, model: nn.Module, folder: Path) -> Genotype | None:
        """Write the active branches of ``model`` by `export_search`; None on ranks other than the main one."""
        if not is_main_process():
            return None
        config = osp.basename(runner.cfg.filename) if runner.cfg.filename else None
        constraint = dict(memory=self.memory) if self.num_branches is None else dict(num_branches=self.num_branches)
        source = dict(config=config, strategy=self.strategy_name, seed=runner.seed, iterations=runner.iter)
        return export_search(model, folder, runner.cfg, source | constraint, **run_meta(runner))
