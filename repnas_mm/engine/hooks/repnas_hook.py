"""RepNAS as a training schedule (Algorithm 1): sample branches, train, step α, report."""

import os.path as osp
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop
from torch.nn.modules.batchnorm import _BatchNorm

from ...checks import is_count, refusing, shown
from ...models.convert import leave_shared_plain
from ...registry import register
from ...search.branch_search import BranchSearch
from ...search.sampler import NOISE_STD
from ...search.space import find_blocks
from ...utils.fileio import check_writable
from ...visualization import draw_alpha
from ..alpha_optimizer import AlphaOptimizer
from ..checkpoint import run_meta
from ..divergence import check_finite
from ..exact_resume import ExactResume
from ..export import export_search
from ..fusing import NO_BLOCKS_HINT, network_output
from ..input_shapes import input_shapes
from ..last_checkpoint import checkpoint_due, find_last_checkpoint
from ..recalibrate import recalibrate
from ..rng import rng_state, set_rng_state
from ..runner_models import final_models, renew_averages, unwrap

PHASES = ('warmup', 'search', 'frozen')
#: What the hook adds to a checkpoint
STATE = ('search', 'alpha_optimizer', 'genotype', 'logged', 'rng')


@register('HOOKS')
class RepNASHook(Hook):
    """Searches the branches of all ODBB blocks while the model trains.

    Training passes through three phases. In *warmup* the branches are drawn by noise and α is not stepped. In
    *search* every iteration draws the noise, keeps the best branches of the whole model, and steps α beside the
    weights. In *frozen* the genotype stands, BN statistics are gathered anew and only the weights train. Validation
    always uses the best branches by α, without noise. At the end the work dir holds ``genotype.json``, its picture,
    and the multi-branch subnet ``subnet.pth`` with the config ``subnet.py`` that loads it; without a frozen phase the
    subnet's BN statistics are recalibrated on training images first.

    The log shows ``phase`` (0 warmup, 1 search, 2 frozen), ``branches`` (active ones), ``branches_changed`` (newly in
    the noise-free choice since the last log line) and ``alpha_gap`` (mean α of the kept minus that of the dropped).

    Args:
        num_branches (int, optional): C, the number of branches to keep over all blocks.
        memory (int | str, optional): Or the bytes of activations to keep for backward on each rank, such as
            ``'6GiB'``. Exactly one of the two must be given.
        warmup (int): Length of the warm-up, in epochs of an epoch-based loop and iterations of an iter-based one.
            Defaults to 0.
        frozen (int): Length of the frozen phase, in the same unit. Defaults to 0.
        temperature (float): λ of Eq. 11. Defaults to 1.
        alpha_optimizer (dict): Optimizer of α. Defaults to Adam with lr 1e-4 and betas (0.5, 0.999), as the paper.

    Example:
        >>> custom_hooks = [dict(type='RepNASHook', num_branches=66), dict(type='FuseHook')]
    """

    # after EMAHook (NORMAL, 50), whose swaps include the active branches; before LoggerHook (BELOW_NORMAL, 60)
    priority = 55

    def __init__(
        self,
        num_branches: int | None = None,
        memory: int | str | None = None,
        warmup: int = 0,
        frozen: int = 0,
        temperature: float = 1.0,
        alpha_optimizer: dict = dict(type='Adam', lr=1e-4, betas=(0.5, 0.999)),
    ):
        for name, length in (('warmup', warmup), ('frozen', frozen)):
            if not is_count(length, 0):
                raise ValueError(f'{name} of RepNASHook must be a number of epochs or iterations, got {shown(length)}.')
        self.constraint: dict[str, Any] = dict(num_branches=num_branches, memory=memory, temperature=temperature)
        self.warmup, self.frozen = warmup, frozen
        self.alpha_optimizer_cfg = alpha_optimizer
        self.search: BranchSearch | Any = None  # until before_run
        self._resume = ExactResume()
        self._resumed: dict | None = None

    # ---- start ----

    def before_run(self, runner) -> None:
        """Take α out of the main optimizer; this early, because a resume loads that optimizer's state next."""
        if self.search is not None:
            return  # a test after the training of the same runner
        wrapper = runner.optim_wrapper
        if wrapper is None or isinstance(wrapper, dict):
            return  # not built: validation or test only
        if not isinstance(wrapper, OptimWrapper) or isinstance(wrapper, OptimWrapperDict):
            raise ValueError(f'RepNASHook needs one OptimWrapper for the whole model, got {type(wrapper).__name__}.')
        check_writable(runner.work_dir)
        self._skip_half_checkpoints(runner)
        model = unwrap(runner.model)
        for copy in final_models(runner):
            leave_shared_plain(copy)
        blocks = {name: block for name, block in find_blocks(model).items() if getattr(block, 'searchable', False)}
        if not blocks:
            raise ValueError(
                f'RepNASHook found no block to search in {type(model).__name__}; {NO_BLOCKS_HINT}, without genotype '
                'and deploy and not frozen, or remove the hook.'
            )
        if is_model_wrapper(runner.model) and not getattr(runner.model, 'find_unused_parameters', True):
            raise ValueError(
                'Dropped branches have no gradients, on which DistributedDataParallel waits for ever: set '
                'find_unused_parameters=True at the top of the config.'
            )
        self.search = BranchSearch(blocks, **self.constraint, seed=runner.seed or 0)
        self.alpha_optimizer = AlphaOptimizer(self.search.alphas, wrapper, self.alpha_optimizer_cfg)
        self._check_schedule(runner)
        self._genotype: np.ndarray | Any = None  # of the frozen phase
        self._sample: tuple = (None, None)
        self._new_sample = True
        self._logged: np.ndarray | None = None
        self._losses: dict = {}

    def before_train(self, runner) -> None:
        renew_averages(runner)
        if self._resumed is not None:
            self._load_state(self._resumed)
        self._resume.start(runner, self._resumed and self._resumed['rng'])  # type: ignore[arg-type]  # never an empty dict

    # ---- one iteration ----

    def before_train_epoch(self, runner) -> None:
        self._resume.before_epoch(runner)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Draw the branches of this iteration, or of this accumulation of gradients."""
        self._resume.before_iter()
        if self.search.needs_input_shapes():
            model = unwrap(runner.model)
            self.search.set_input_shapes(input_shapes(self.search.blocks, lambda: network_output(model, data_batch)))
        phase = self.phase(runner)
        if phase == 'frozen':
            if self._genotype is None:
                self._freeze(runner)
        elif self._new_sample:
            try:
                mask, noise = self.search.sample()
            except FloatingPointError:
                self._check_finite(runner)  # which may know where it began
                raise
            self._sample = (mask, noise if phase == 'search' else None)
            self.search.apply(*self._sample)
            self._new_sample = False
        self.alpha_optimizer.start_iter()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Step α where the model stepped, and report."""
        self._new_sample = self.alpha_optimizer.finish_iter(update=self.phase(runner) == 'search') or self._new_sample
        self._losses = outputs or {}
        log, save = self._is_log_iter(runner, batch_idx), checkpoint_due(runner, by_epoch=False)
        if log or save:
            self._check_finite(runner)
        if log:
            self._report(runner)
        if save:
            self._resume.gather(runner)
        if self._by_iter(runner) and self.every_n_train_iters(runner, len(runner.train_dataloader)):
            self._draw_alpha(runner)

    def after_train_epoch(self, runner) -> None:
        if checkpoint_due(runner, by_epoch=True):
            self._check_finite(runner)
            self._resume.gather(runner)
        if not self._by_iter(runner):
            self._draw_alpha(runner)

    def _check_finite(self, runner) -> None:
        """Before a checkpoint, so that every one is good to go back to."""
        scaled = hasattr(runner.optim_wrapper, 'loss_scaler')
        check_finite(unwrap(runner.model), self._losses, runner.work_dir, scaled)

    # ---- validation: the noise-free choice, and no trace in the random state ----

    def before_val(self, runner) -> None:
        if self.search is not None:
            self._rng = rng_state()
            # now, while α is the raw one: before_val_epoch is after EMAHook's swap
            self._best = self.best()

    def before_val_epoch(self, runner) -> None:
        if self.search is not None:
            self.search.apply(self._best)

    def after_val_epoch(self, runner, metrics=None) -> None:
        if self.search is not None and self._sample[0] is not None:
            self.search.apply(*self._sample)

    def after_val(self, runner) -> None:
        if self.search is not None:
            set_rng_state(self._rng)

    # ---- checkpoints ----

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Add the search's own state, and make the saved blocks compute the genotype rather than the last sample."""
        if self.search is None:
            return
        for block, mask in self.search.masks_by_block(self.best()).items():
            checkpoint['state_dict'][f'{block}.active'] = mask
            if 'ema_state_dict' in checkpoint:
                checkpoint['ema_state_dict'][f'module.{block}.active'] = mask.clone()
        checkpoint['repnas'] = dict(
            search=self.search.state_dict(),
            alpha_optimizer=self.alpha_optimizer.state_dict(),
            genotype=None if self._genotype is None else self._genotype.tolist(),
            logged=None if self._logged is None else self._logged.tolist(),
            rng=self._resume.state(runner),
        )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if self.search is None:
            return
        keys = checkpoint.get('state_dict', {})
        branches = {key.split('.branches.')[0] for key in keys if '.branches.' in key}
        if fixed := [block for block in self.search.blocks if block in branches and f'{block}.alpha' not in keys]:
            raise ValueError(
                f"The checkpoint holds block '{fixed[0]}' as a subnet, with nothing left to search; remove RepNASHook "
                'to train the subnet, or start from the checkpoint of a search or of an ordinary model.'
            )
        if not runner._resume:
            return
        if 'repnas' not in checkpoint:
            raise ValueError(
                'The checkpoint to resume from was not written by a search; start from its weights with load_from '
                'instead of resuming.'
            )
        self._resumed = checkpoint['repnas']
        if missing := [key for key in STATE if key not in self._resumed]:
            raise ValueError(
                f"The checkpoint's state of the search lacks '{missing[0]}'; it is damaged or of another version of "
                'repnas_mm, so start from its weights with load_from instead of resuming.'
            )
        seed = checkpoint.get('meta', {}).get('seed')
        if is_main_process() and seed not in (None, runner.seed):
            runner.logger.warning(
                f'The data will come in another order than it would have: this run began with seed {runner.seed}, the '
                f'checkpoint is of seed {seed}. For an exact resume, set randomness.seed={seed}.'
            )

    def _load_state(self, state: dict) -> None:
        self.search.load_state_dict(state['search'])
        self.alpha_optimizer.load_state_dict(state['alpha_optimizer'])
        genotype, self._logged = self._load_mask(state['genotype']), self._load_mask(state['logged'])
        if genotype is not None:
            self._fix_genotype(genotype)

    def _load_mask(self, saved: list[bool] | None) -> np.ndarray | None:
        if saved is None:
            return None
        with refusing("The checkpoint's choice of branches is damaged"):
            return np.array(saved, dtype=bool).reshape(len(self.search.block_ids))

    @staticmethod
    def _skip_half_checkpoints(runner) -> None:
        """Resume from the newest checkpoint that is whole, where stock MMEngine takes the newest."""
        if not runner._resume or runner._load_from is not None:
            return
        last = find_last_checkpoint(runner.work_dir)
        if last is None:
            runner.logger.warning(f"No whole checkpoint in '{runner.work_dir}' to resume from; the run starts anew.")
            runner._resume = False
        runner._load_from = last

    # ---- end ----

    def after_train(self, runner) -> None:
        """Settle every copy of the model on the genotype, then export genotype, picture and subnet."""
        mask = self.best()
        models = final_models(runner)
        for model in models:
            blocks = find_blocks(model)
            for name, active in self.search.masks_by_block(mask).items():
                blocks[name].set_active(active)
        if self._genotype is None:
            recalibrate(models[0], runner.train_dataloader, logger=runner.logger)
        if not is_main_process():
            return
        folder = Path(runner.work_dir)
        genotype = export_search(models[0], folder, runner.cfg, self._source(runner), **run_meta(runner))
        runner.logger.info(
            f'{genotype} saved to {folder / "genotype.json"}, picture to {folder / "genotype.png"}, '
            f'multi-branch subnet to {folder / "subnet.pth"}'
        )

    def _source(self, runner) -> dict:
        constraint = {k: v for k, v in self.constraint.items() if v is not None and k != 'temperature'}
        config = osp.basename(runner.cfg.filename) if runner.cfg.filename else None
        return dict(config=config, seed=runner.seed, iterations=runner.iter, **constraint)

    # ---- phases ----

    def phase(self, runner) -> str:
        """``warmup``, ``search`` or ``frozen``, by the loop's own unit."""
        now, total = (runner.iter, runner.max_iters) if self._by_iter(runner) else (runner.epoch, runner.max_epochs)
        return 'warmup' if now < self.warmup else 'search' if now < total - self.frozen else 'frozen'

    def best(self) -> np.ndarray:
        """Mask of the genotype: the frozen one, or the noise-free choice by α."""
        return self.search.best() if self._genotype is None else self._genotype

    def _fix_genotype(self, mask: np.ndarray) -> None:
        self._genotype, self._sample = mask, (mask, None)
        self.search.apply(*self._sample)

    def _freeze(self, runner) -> None:
        self._fix_genotype(self.search.best())
        for module in unwrap(runner.model).modules():
            if isinstance(module, _BatchNorm) and module.training:
                module.reset_running_stats()
        runner.logger.info(f'Genotype frozen: {int(self._genotype.sum())} branches; BN statistics start anew.')

    def _check_schedule(self, runner) -> None:
        by_iter = self._by_iter(runner)
        total, unit = (runner.max_iters, 'iterations') if by_iter else (runner.max_epochs, 'epochs')
        left = total - self.warmup - self.frozen
        if left < 1:
            raise ValueError(
                f'warmup={self.warmup} and frozen={self.frozen} leave no search phase in {total} {unit}; shorten them.'
            )
        lr = self.alpha_optimizer.optimizer.param_groups[0]['lr']
        steps = left * (1 if by_iter else len(runner.train_dataloader))
        # Adam moves by lr a step at most, so that an alpha which stays below the noise cannot decide what is drawn
        if steps * lr < NOISE_STD:
            runner.logger.warning(
                f'Search phase of {steps} steps at alpha lr {lr:g}: alpha moves by at most {steps * lr:.2g}, less than '
                f'the noise that draws the branches (standard deviation {NOISE_STD:.1f}), so that the genotype will be '
                "near random. Raise the lr of alpha_optimizer or train longer; on the paper's schedules steps x lr is "
                '20 to 80.'
            )

    @staticmethod
    def _by_iter(runner) -> bool:
        return isinstance(runner.train_loop, IterBasedTrainLoop)

    # ---- report ----

    def _is_log_iter(self, runner, batch_idx: int) -> bool:
        """Whether LoggerHook prints a line after this iteration."""
        logger = next((hook for hook in runner.hooks if isinstance(hook, LoggerHook)), None)
        if logger is None:
            return False
        length = len(runner.train_dataloader)
        last = batch_idx + 1 == length and (not logger.ignore_last or length <= logger.interval)
        return self.every_n_inner_iters(batch_idx, logger.interval) or last

    def _report(self, runner) -> None:
        best = self.best()
        changed = 0 if self._logged is None else int((best & ~self._logged).sum())
        self._logged = best
        scalars = dict(
            phase=PHASES.index(self.phase(runner)),
            branches=int(self._sample[0].sum()),
            branches_changed=changed,
            alpha_gap=self.search.alpha_gap(best),
        )
        for name, value in scalars.items():
            runner.message_hub.update_scalar(f'train/{name}', value)

    def _draw_alpha(self, runner) -> None:
        if is_main_process():
            alphas = {name: block.alpha for name, block in self.search.blocks.items()}
            runner.visualizer.add_image('alpha', draw_alpha(alphas, self.search.candidates), runner.iter + 1)
