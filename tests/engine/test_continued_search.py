"""A search that goes on by another schedule: a genotype that stands stays, all else goes on sensibly or is refused."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from small_search import in_iterations, small_search

from repnas_mm.engine import RepNASHook
from repnas_mm.engine.checkpoint import build_model, load_file
from repnas_mm.engine.fusing import max_difference, raw_output
from repnas_mm.search import Genotype, find_blocks

#: Iterations in an epoch of the small search
EPOCH = 3


class Active(Hook):
    """Branches of every iteration, and phases."""

    priority = 60

    def __init__(self):
        self.branches, self.phases = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.branches.append({name: block.active_branches for name, block in find_blocks(runner.model).items()})
        hook = next(hook for hook in runner.hooks if isinstance(hook, RepNASHook))
        self.phases.append(hook.phase(runner))


@cache
def cached_search():
    return small_search(Path())


def config(folder: Path, strategy: str, loop: str, epochs: int = 6, warmup: int = 1, frozen: int = 2):
    """1 epoch of warm-up, 3 of search, 2 frozen, in either loop; a checkpoint each epoch."""
    cfg = deepcopy(cached_search())
    cfg.work_dir = str(folder)
    cfg.custom_hooks[0].update(strategy=strategy, warmup=warmup, frozen=frozen)
    if strategy == 'shrink':
        cfg.model.backbone.share_weights = False
        del cfg.custom_hooks[0]['alpha_optimizer']
    cfg.train_cfg.update(max_epochs=epochs, val_interval=100)
    if loop == 'iter':
        in_iterations(cfg).train_cfg.update(max_iters=EPOCH * epochs, val_interval=100)
        cfg.custom_hooks[0].update(warmup=EPOCH * warmup, frozen=EPOCH * frozen)
        cfg.default_hooks.checkpoint.interval = EPOCH
    return cfg


def train(cfg, *hooks):
    train.count = getattr(train, 'count', 0) + 1
    cfg.experiment_name = f'continued_{train.count}_{cfg.work_dir}'
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


@pytest.fixture(scope='module', params=[('sample', 'epoch'), ('shrink', 'iter')], ids='-'.join)
def finished(request, tmp_path_factory):
    """Strategy, loop and work dir of a search that has run to its end."""
    folder = tmp_path_factory.mktemp('finished') / 'run'
    train(config(folder, *request.param))
    return *request.param, folder


def checkpoint_of(loop: str, folder: Path, epoch: int) -> Path:
    return folder / (f'epoch_{epoch}.pth' if loop == 'epoch' else f'iter_{EPOCH * epoch}.pth')


def test_a_finished_search_trains_on_what_it_found(finished, tmp_path):
    strategy, loop, folder = finished
    cfg = config(tmp_path / 'longer', strategy, loop, epochs=9)
    cfg.update(load_from=str(checkpoint_of(loop, folder, 6)), resume=True)
    watch = Active()
    runner = train(cfg, watch)
    found, again = (Genotype.load(path / 'genotype.json') for path in (folder, Path(cfg.work_dir)))
    assert again == found and again.num_branches == 10
    assert watch.branches == [dict(found)] * 9 and set(watch.phases) == {'frozen'}
    images = torch.randn(4, 1, 16, 16)
    fused = build_model(cfg, load_file(Path(cfg.work_dir) / 'fused.pth'))
    assert max_difference(raw_output(runner.model, images), raw_output(fused, images)) < 1e-5


@pytest.fixture(scope='module')
def runners(tmp_path_factory):
    """(strategy, loop) -> a runner that has built all that a hook looks at, and trains nothing."""
    made = {}

    def make(strategy, loop):
        if (strategy, loop) not in made:
            cfg = config(tmp_path_factory.mktemp('runner'), strategy, loop)
            cfg.experiment_name = f'runner_{strategy}_{loop}'
            runner = made[strategy, loop] = Runner.from_cfg(cfg)
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
            runner._train_loop = runner.build_train_loop(runner._train_loop)
        return made[strategy, loop]

    return make


@cache
def loaded(path: Path):
    return load_file(path)


def continued(runner, cfg, checkpoint, epoch: int) -> tuple[RepNASHook, list[str]]:
    """The hook of ``cfg`` behind a resume, and the phases of the epochs to come."""
    options = deepcopy(cfg.custom_hooks[0])
    options.pop('type')
    hook, loop = RepNASHook(**options), runner.train_loop
    if 'max_iters' in cfg.train_cfg:
        loop._max_iters, now, total = cfg.train_cfg.max_iters, EPOCH * epoch, cfg.train_cfg.max_iters
    else:
        loop._max_epochs, now, total = cfg.train_cfg.max_epochs, epoch, cfg.train_cfg.max_epochs
        loop._max_iters = EPOCH * total
    loop._epoch, loop._iter = epoch, EPOCH * epoch
    hook.before_run(runner)
    runner._resume = True
    hook.after_load_checkpoint(runner, loaded(checkpoint))
    hook.before_train(runner)
    phases = []
    for step in range(now, total, 1 if 'max_epochs' in cfg.train_cfg else EPOCH):
        loop._epoch = loop._iter = step
        phases.append(hook.phase(runner))
    return hook, phases


W, S, F = ['warmup'], ['search'], ['frozen']

#: Epoch of the checkpoint, new schedule, and the phases of the epochs to come or why it is refused
BOTH = [
    (5, dict(epochs=9), F * 4),
    (5, dict(epochs=9, warmup=7, frozen=1), F * 4),
    (5, dict(epochs=40, frozen=1), F * 35),
    (5, dict(epochs=5), []),
    (6, dict(epochs=60), F * 54),
    (1, dict(epochs=9), S * 6 + F * 2),
    (1, dict(epochs=4), S + F * 2),
    (1, dict(epochs=3), 'leave no search phase'),
]
CHANGES = {
    'sample': [
        *BOTH,
        (3, dict(epochs=9), S * 4 + F * 2),
        (3, dict(epochs=9, warmup=4), W + S * 3 + F * 2),
        (3, dict(epochs=5), F * 2),
        (3, dict(epochs=9, frozen=0), S * 6),
        (1, dict(epochs=3, warmup=0), 'with alpha as it was initialized, and its search phase would end at 3; train l'),
    ],
    'shrink': [
        *BOTH,
        (2, dict(epochs=9), S * 5 + F * 2),
        (2, dict(epochs=9, warmup=4), W * 2 + S * 3 + F * 2),
        (2, dict(epochs=4), 'A search phase of 0 iterations leaves 0 steps of alpha'),
        (3, dict(epochs=9, frozen=5), S + F * 5),
        (3, dict(epochs=5, frozen=1), S + F),
        (
            3,
            dict(epochs=9),
            r'learned since iteration 7, for a cut at 12, .* from 12 to 21 by .* train beyond iteration',
        ),
        (3, dict(epochs=5), 'for a cut at 12, and would have from 6 to 9'),
        (3, dict(epochs=6, warmup=0), 'keep warmup and the batch size'),
    ],
}


@pytest.mark.parametrize('loop', ['epoch', 'iter'])
def test_every_other_schedule_goes_on_or_is_refused(finished, runners, tmp_path, loop):
    strategy, own_loop, folder = finished  # the hook's part of a checkpoint does not know the loop
    for epoch, schedule, expected in CHANGES[strategy]:
        cfg = config(tmp_path, strategy, loop, **schedule)
        runner, checkpoint = runners(strategy, loop), checkpoint_of(own_loop, folder, epoch)
        if isinstance(expected, str):
            with pytest.raises(ValueError, match=expected):
                continued(runner, cfg, checkpoint, epoch)
            continue
        hook, phases = continued(runner, cfg, checkpoint, epoch)
        assert phases == expected, (epoch, schedule)
        if epoch >= 5:
            assert hook.best().tolist() == loaded(checkpoint)['repnas']['genotype']
            assert {name: block.active_branches for name, block in hook.search.blocks.items()} == dict(
                Genotype.load(folder / 'genotype.json')
            )
        elif strategy == 'shrink':
            steps = hook.alpha_optimizer.optimizer.param_groups[0]['steps']
            done = max([state['step'] for state in hook.alpha_optimizer.optimizer.state.values()], default=0)
            begin, end = hook.strategy.learning(runner)
            assert done + end - max(begin, EPOCH * epoch) == steps


def test_another_number_of_branches_comes_too_late(finished, runners, tmp_path):
    strategy, loop, folder = finished
    cfg = config(tmp_path, strategy, loop, epochs=9)
    cfg.custom_hooks[0].num_branches = 12
    with pytest.raises(ValueError, match='has ended with 10 branches, which num_branches=12 cannot change; set num_b'):
        continued(runners(strategy, loop), cfg, checkpoint_of(loop, folder, 6), 6)


def test_one_runner_trains_twice(small_cfg, run):
    """In a notebook: what was trained on is not what was resumed from, but what the first training left."""
    run(small_cfg, stop_after=6)
    runner = run(small_cfg, resume=True)
    hook = next(hook for hook in runner.hooks if isinstance(hook, RepNASHook))
    found, steps = hook.best(), alpha_steps(hook)
    runner.train_loop._max_epochs += 2
    watch = Active()
    runner.register_hook(watch)
    runner.train()
    assert set(watch.phases) == {'frozen'} and np.array_equal(hook.best(), found) and alpha_steps(hook) == steps


def alpha_steps(hook) -> list[int]:
    return [int(state['step']) for state in hook.alpha_optimizer.optimizer.state.values()]
