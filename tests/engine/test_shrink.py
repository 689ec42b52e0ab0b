"""strategy='shrink': all branches train, then the lowest-ranked leave at once and nothing else changes."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook, Hook

from repnas_mm.engine import RepNASHook
from repnas_mm.engine.absorbing import absorbing
from repnas_mm.engine.checkpoint import build_model, load_file
from repnas_mm.engine.phases import Phases
from repnas_mm.engine.search_state import read_search_state
from repnas_mm.models import ODBBlock
from repnas_mm.search import Genotype, find_blocks
from repnas_mm.search.space import BRANCHES


class Watch(Hook):
    """Notes, for every iteration, the active branches and whether α moved, and the branches at each validation."""

    priority = 60

    def __init__(self):
        self.active, self.moved, self.validated, self.losses = [], [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before = alphas(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.active.append(active(runner.model))
        self.moved.append(bool((alphas(runner) != self.before).any()))
        self.losses.append(outputs['loss'].item())

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.validated.append(count(active(runner.model)))


def alphas(runner):
    return torch.cat([block.alpha.detach().clone() for block in find_blocks(runner.model).values()])


def active(model):
    return {name: block.active_branches for name, block in find_blocks(model).items()}


def count(names):
    return sum(map(len, names.values()))


def hook_of(runner, kind=RepNASHook):
    return next(hook for hook in runner.hooks if isinstance(hook, kind))


@pytest.fixture
def shrink_cfg(small_cfg):
    """4 blocks of 25 candidates; of 18 iterations 12 with all branches, α in the last 6 of them."""
    small_cfg.model.backbone.share_weights = False
    del small_cfg.custom_hooks[0]['alpha_optimizer']
    small_cfg.custom_hooks[0].update(strategy='shrink', warmup=0, frozen=2, candidates=list(BRANCHES))
    return small_cfg


@pytest.fixture(params=['epoch', 'iter'])
def cfg(request, shrink_cfg, by_iter):
    if request.param == 'iter':
        shrink_cfg = by_iter(shrink_cfg)
        shrink_cfg.custom_hooks[0].warmup = 0
    return shrink_cfg


def test_all_branches_train_until_the_cut(cfg, run):
    watch = Watch()
    runner = run(cfg, watch)
    assert [count(names) for names in watch.active] == [25] * 12 + [10] * 6
    assert watch.moved == [False] * 6 + [True] * 6 + [False] * 6
    assert all('kxk' in names for names in watch.active[-1].values())
    assert set(watch.validated) == {25, 10}
    genotype = Genotype.load(Path(runner.work_dir) / 'genotype.json')
    assert dict(genotype) == watch.active[-1]


def test_it_is_what_a_config_gets_that_says_no_more_than_c(small_cfg, by_iter, run):
    small_cfg.model.backbone.pop('share_weights')
    small_cfg.custom_hooks[0] = dict(type='RepNASHook', num_branches=10)
    watch = Watch()
    run(small_cfg, watch)
    # an epoch of 6 is 3 iterations of 18
    assert [count(names) for names in watch.active] == [17] * 3 + [10] * 15
    assert not any({'1x1_kxk', '1x1_avg'} & set(names) for names in watch.active[0].values())
    assert watch.moved == [False] + [True] * 2 + [False] * 15


@pytest.mark.parametrize(
    ('warmup', 'total', 'frozen'),
    [(0, 60, 48), (10, 60, 40), (0, 750_000, 600_000), (0, 3, 2), (0, 2, 1), (58, 60, 1), (0, 1, 1), (60, 60, 1)],
)
def test_four_fifths_behind_the_warm_up_are_frozen(warmup, total, frozen):
    assert Phases(warmup, None).frozen_of(total) == frozen


def test_warm_up_puts_the_search_off(shrink_cfg, run):
    shrink_cfg.custom_hooks[0].warmup = 2
    watch = Watch()
    run(shrink_cfg, watch)
    assert watch.moved == [False] * 9 + [True] * 3 + [False] * 6


class LossAroundTheCut(Hook):
    """Loss and outputs of the batch of the first iteration after the cut, without the cut and behind it."""

    priority = 54  # before RepNASHook

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 12:
            self.rng = torch.get_rng_state()
            with torch.no_grad():
                data = runner.model.data_preprocessor(data_batch, True)
                self.without = runner.model(**data, mode='loss')['loss'].item()
            torch.set_rng_state(self.rng)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 12:
            self.behind = outputs['loss'].item()


def test_the_cut_does_not_change_the_loss(shrink_cfg, run):
    losses = LossAroundTheCut()
    run(shrink_cfg, losses)
    assert losses.behind == pytest.approx(losses.without, abs=2e-2)  # the borders' statistics are running ones


def test_momentum_and_statistics_go_on(shrink_cfg, run):
    class Count(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 12:
                branch = runner.model.backbone.stem.branches.kxk
                self.batches = branch.norm.num_batches_tracked.item()
                self.momentum = runner.optim_wrapper.optimizer.state[branch.weight]['momentum_buffer'].abs().max()

    watch = Count()
    run(shrink_cfg, watch)
    assert watch.batches == 13 and watch.momentum > 0


def test_a_run_resumed_four_times_is_bit_identical(cfg, run, tmp_path):
    """Before α learns and while it does, right before the cut and behind it."""
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.2))
    whole = run(cfg)
    cfg.work_dir = str(tmp_path / 'interrupted')
    for stop_after in (3, 9, 12, 15):
        if 'max_iters' in cfg.train_cfg:
            stop_after += stop_after % 2  # checkpoints stand at even iterations
        run(cfg, stop_after=stop_after, resume=stop_after > 4)
    resumed = run(cfg, resume=True)
    first, second = (load_file((Path(r.work_dir) / 'last_checkpoint').read_text().strip()) for r in (whole, resumed))
    for part in ('state_dict', 'ema_state_dict'):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(first[part][key], second[part][key]) for key in first[part])
    assert first['repnas']['genotype'] == second['repnas']['genotype']
    assert str(first['repnas']['alpha_optimizer']) == str(second['repnas']['alpha_optimizer'])


def test_a_checkpoint_before_the_cut_computes_all_branches(shrink_cfg, run):
    runner = run(shrink_cfg, stop_after=9)
    model = build_model(shrink_cfg, load_file(Path(runner.work_dir) / 'epoch_3.pth'))
    assert count(active(model)) == 25


def test_the_average_absorbs_with_its_own_numbers(shrink_cfg, run):
    class AroundTheCut(Hook):
        """Outputs of EMA's copy in eval mode."""

        images = torch.randn(4, 1, 16, 16)
        outputs = []

        def output(self, runner):
            average = hook_of(runner, EMAHook).ema_model.module
            training = average.training
            with torch.no_grad():
                self.outputs.append(average.eval()(self.images, mode='tensor'))
            average.train(training)
            return average

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 12:
                self.output(runner)

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 12:
                self.active = active(hook_of(runner, EMAHook).ema_model.module)

    class BehindTheCut(AroundTheCut):
        priority = 58
        outputs = AroundTheCut.outputs

        def after_train_iter(self, *_, **__):
            pass

    class First(AroundTheCut):
        priority = 54

    shrink_cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    first = First()
    runner = run(shrink_cfg, first, BehindTheCut())
    torch.testing.assert_close(first.outputs[0], first.outputs[1], rtol=1e-4, atol=1e-5)
    assert first.active == active(runner.model) and count(first.active) == 10


def test_gradients_are_accumulated_in_the_search(shrink_cfg, by_iter, run):
    cfg = by_iter(shrink_cfg)
    cfg.custom_hooks[0].update(warmup=0, frozen=6)
    cfg.optim_wrapper.accumulative_counts = 2
    watch = Watch()
    run(cfg, watch)
    assert watch.moved == [False] * 6 + [False, True] * 3 + [False] * 6
    assert [count(names) for names in watch.active] == [25] * 12 + [10] * 6


def test_validation_leaves_no_trace_in_training(shrink_cfg, run, tmp_path):
    losses = []
    for i, interval in enumerate((1, 100)):
        shrink_cfg.train_cfg.val_interval = interval
        shrink_cfg.work_dir = str(tmp_path / str(i))
        watch = Watch()
        run(shrink_cfg, watch)
        losses.append(watch.losses)
    assert losses[0] == losses[1]


@pytest.mark.parametrize(('memory', 'recompute'), [('1GiB', False), ('250KB', True)])
def test_blocks_recompute_until_the_cut_where_all_branches_do_not_fit(shrink_cfg, run, memory, recompute):
    class Recompute(Hook):
        priority = 60

        def __init__(self):
            self.rows = []

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            blocks = find_blocks(runner.model)
            self.rows.append({block.with_cp for block in blocks.values()})

    shrink_cfg.custom_hooks[0].update(num_branches=None, memory=memory)
    watch, counts = Recompute(), Watch()
    run(shrink_cfg, watch, counts)
    assert watch.rows == [{recompute}] * 12 + [{False}] * 6
    after = count(counts.active[-1])
    assert after < 25 if recompute else after == 25


def test_a_block_without_a_forward_drops_what_leaves():
    block = ODBBlock(4, 4, share_weights=False)
    kept = torch.tensor([name in ('kxk', 'skip') for name in block.candidates])
    before = block.branches['kxk'].weight.detach().clone()
    with absorbing(dict(block=block), dict(block=kept)):
        pass
    assert block.active_branches == ('kxk', 'skip') and not block._forward_pre_hooks
    assert torch.equal(block.branches['kxk'].weight, before)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(warmup=6, frozen=None), 'warmup=6 and frozen=1 leave no search phase in 6 epochs; shorten them or train'),
        (dict(strategy='grow'), "Unknown strategy 'grow' of RepNASHook; known are shrink, sample"),
        (dict(num_branches=None, memory='100KB'), 'memory=100000 bytes is less than'),
        (dict(strategy='sample', candidates=['kxk']), "candidates belongs to strategy='shrink'"),
        (
            dict(candidates=['1x1', 'skip']),
            r"candidates must be a list .* with 'kxk' among them, got \['1x1', 'skip'\]",
        ),
        (dict(candidates=['kxk', '5x5']), 'candidates must be a list of names'),
        (dict(candidates='kxk'), "with 'kxk' among them, got 'kxk'"),
        (dict(temperature=2.0), "belong to strategy='sample'"),
        (dict(alpha_optimizer=dict(type='SGD', lr=1)), "set strategy='sample' and, .* share_weights=True in the model"),
        (dict(frozen=0), 'frozen is 0; set it to'),
        (dict(num_branches=3), 'num_branches=3 is less than the 4 ODBB blocks'),
        (dict(warmup=3, frozen=3), 'leave no search phase in 6 epochs'),
    ],
)
def test_bad_arguments_stop_at_the_start(shrink_cfg, run, change, message):
    shrink_cfg.custom_hooks[0].update(change)
    with pytest.raises(ValueError, match=message):
        run(shrink_cfg)


def test_a_search_phase_needs_steps(shrink_cfg, by_iter, run):
    cfg = by_iter(shrink_cfg)
    cfg.custom_hooks[0].update(warmup=0, frozen=16)
    with pytest.raises(ValueError, match='A search phase of 2 iterations leaves 1 steps of alpha'):
        run(cfg)


def test_shared_weights_are_refused(shrink_cfg, run):
    shrink_cfg.model.backbone.share_weights = True
    what = r"Block 'backbone\.stem' shares one kernel .* with share_weights=False, or search with strategy='sample'\."
    with pytest.raises(ValueError, match=what):
        run(shrink_cfg)


def test_a_block_without_kxk_is_refused(shrink_cfg, run):
    class Rename(Hook):
        priority = 1

        def before_run(self, runner):
            block = runner.model.backbone.stem
            block.candidates = tuple('mine' if name == 'kxk' else name for name in block.candidates)

    with pytest.raises(ValueError, match=r"Block 'backbone\.stem' has no branch 'kxk'"):
        run(shrink_cfg, Rename())


@pytest.mark.parametrize('first', ['sample', 'shrink'])
def test_a_checkpoint_of_the_other_strategy_is_refused(shrink_cfg, run, first):
    shrink_cfg.custom_hooks[0].pop('candidates')
    shrink_cfg.custom_hooks[0].strategy = first
    run(shrink_cfg, stop_after=3)
    second = shrink_cfg.custom_hooks[0].strategy = 'shrink' if first == 'sample' else 'sample'
    with pytest.raises(ValueError, match=f"has strategy='{second}'; to resume it, set strategy='{first}'"):
        run(shrink_cfg, resume=True)


@pytest.mark.parametrize('resume', [True, False], ids=['resume', 'load_from'])
def test_a_config_of_before_that_shared_weights_is_told_so(small_cfg, run, resume, tmp_path):
    run(small_cfg, stop_after=3)
    small_cfg.model.backbone.pop('share_weights')
    if not resume:
        small_cfg.load_from, small_cfg.work_dir = f'{small_cfg.work_dir}/epoch_1.pth', str(tmp_path / 'again')
    what = r"^The checkpoint's block 'backbone\.stem' has share_weights=True, .*; build .* with share_weights=True\.$"
    with pytest.raises(ValueError, match=what):
        run(small_cfg, resume=resume)


def test_a_state_from_before_there_were_strategies_is_one_of_sample():
    state = dict(search={}, alpha_optimizer={}, genotype=None, logged=None)
    assert read_search_state(dict(repnas=state), 'sample') == dict(state, strategy='sample', learning=None)


@pytest.mark.parametrize('epoch', [1, 6], ids=['before the cut', 'behind it'])
def test_a_new_search_starts_from_what_a_checkpoint_computes(shrink_cfg, run, epoch, tmp_path):
    first = run(shrink_cfg)
    checkpoint = f'{first.work_dir}/epoch_{epoch}.pth'
    images = torch.rand(4, 1, 8, 8)

    class Compare(Hook):
        priority = 'VERY_LOW'

        def before_train_epoch(self, runner):
            if runner.epoch == 0:
                loaded = build_model(shrink_cfg, load_file(checkpoint)).eval()
                network = runner.model.eval()
                assert count(active(network)) == 25
                torch.testing.assert_close(network(images), loaded(images))
                network.train()

    shrink_cfg.load_from, shrink_cfg.work_dir = checkpoint, str(tmp_path / 'again')
    run(shrink_cfg, Compare())
