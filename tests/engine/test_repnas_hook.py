"""RepNASHook on a stock Runner: Algorithm 1, its three phases, and what it leaves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from mmengine.runner import Runner

from repnas_mm.engine import RepNASHook
from repnas_mm.engine.checkpoint import build_model, load_file
from repnas_mm.search import Genotype, find_blocks


class Watch(Hook):
    """Notes, for every iteration, the phase, the active branches and α before and after the step."""

    priority = 60  # right behind RepNASHook

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before = self._alpha(runner)
        self.rows = getattr(self, 'rows', [])
        blocks = find_blocks(runner.model)
        self.rows.append(
            dict(
                phase=self._hook(runner).phase(runner),
                active={name: block.active_branches for name, block in blocks.items()},
                buffers=sum(int(block.active.sum()) for block in blocks.values()),
                mask=np.concatenate([block.active.numpy() for block in blocks.values()]),
            )
        )

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.rows[-1]['moved'] = (self._alpha(runner) != self.before).numpy()
        self.rows[-1]['loss'] = outputs['loss'].item()

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        blocks = find_blocks(runner.model)
        mask = np.concatenate([block.active.numpy() for block in blocks.values()])
        hook = self._hook(runner)
        best = hook.search.keep(self._alpha(runner).double().numpy()) if hook._genotype is None else hook._genotype
        self.validated = getattr(self, 'validated', [])
        self.validated.append((mask, best))

    @staticmethod
    def _alpha(runner):
        return torch.cat([block.alpha.detach().clone() for block in find_blocks(runner.model).values()])

    @staticmethod
    def _hook(runner):
        return next(hook for hook in runner.hooks if isinstance(hook, RepNASHook))

    def column(self, name, phase=None):
        return [row[name] for row in self.rows if phase in (None, row['phase'])]


@pytest.fixture(params=['epoch', 'iter'])
def cfg(request, small_cfg, by_iter):
    return by_iter(small_cfg) if request.param == 'iter' else small_cfg


def test_phases_follow_algorithm_1(cfg, run):
    watch = Watch()
    runner = run(cfg, watch)
    assert watch.column('phase') == ['warmup'] * 6 + ['search'] * 6 + ['frozen'] * 6
    assert set(watch.column('buffers')) == {10}
    assert all(len(names) >= 1 for active in watch.column('active') for names in active.values())
    # noise draws other branches in every iteration, until the genotype stands
    masks = [tuple(mask) for mask in watch.column('mask')]
    assert len(set(masks[:12])) > 6
    assert len(set(masks[12:])) == 1
    # α moves only in the search
    assert not np.any(watch.column('moved', 'warmup'))
    assert all(np.any(moved) for moved in watch.column('moved', 'search'))
    assert not np.any(watch.column('moved', 'frozen'))
    assert all(np.array_equal(mask, best) for mask, best in watch.validated)
    assert dict(Genotype.load(Path(runner.work_dir) / 'genotype.json')) == watch.column('active', 'frozen')[-1]


def test_alpha_of_a_dropped_branch_gets_no_gradient_in_its_first_step(small_cfg, run):
    small_cfg.custom_hooks[0].warmup = 0
    watch = Watch()
    run(small_cfg, watch)
    # Adam has no momentum yet: what moved is exactly what was active
    assert np.array_equal(watch.rows[0]['moved'], watch.rows[0]['mask'])


def test_alpha_leaves_the_main_optimizer_and_nothing_else_does(small_cfg, run):
    runner = run(small_cfg, stop_after=1)
    in_main = {id(p) for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']}
    alphas = {id(block.alpha) for block in find_blocks(runner.model).values()}
    assert in_main == {id(p) for p in runner.model.parameters()} - alphas


def test_work_dir_holds_the_results(cfg, run):
    runner = run(cfg)
    folder = Path(runner.work_dir)
    names = {path.name for path in folder.iterdir()}
    assert {
        'genotype.json',
        'genotype.png',
        'genotype.svg',
        'subnet.pth',
        'subnet.py',
        'fused.pth',
        'fused.py',
    } <= names
    assert not [name for name in names if name.startswith('.')]
    genotype = Genotype.load(folder / 'genotype.json')
    assert genotype.num_branches == 10
    assert genotype.source['seed'] == 0


def test_every_exported_form_computes_what_the_search_checkpoint_computes(small_cfg, run):
    folder = Path(run(small_cfg).work_dir)
    images = torch.randn(4, 1, 16, 16)
    outputs = []
    for name in ('epoch_6.pth', 'subnet.pth', 'fused.pth'):
        model = build_model(small_cfg, load_file(folder / name)).eval()
        with torch.no_grad():
            outputs.append(model(images, mode='tensor'))
    assert torch.equal(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[0], outputs[2], rtol=1e-5, atol=1e-5)


def test_a_search_checkpoint_needs_no_hook_to_be_the_searched_network(small_cfg, run):
    small_cfg.custom_hooks[0].update(warmup=0, frozen=0)
    runner = run(small_cfg, stop_after=9)
    checkpoint = load_file(Path(runner.work_dir) / 'epoch_3.pth')
    model = build_model(small_cfg, checkpoint)
    hook = Watch._hook(runner)
    assert sum(len(block.active_branches) for block in find_blocks(model).values()) == 10
    saved = np.concatenate([block.active.numpy() for block in find_blocks(model).values()])
    assert np.array_equal(saved, hook.search.best())


@pytest.mark.parametrize('workers', [0, 2])
def test_a_run_resumed_in_each_phase_is_bit_identical(cfg, run, workers, tmp_path):
    # chance in the workers, which crop, and in the main process
    cfg.train_dataloader.update(num_workers=workers, persistent_workers=workers > 0)
    cfg.model.train_cfg = dict(augments=dict(type='Mixup', alpha=0.5))
    cfg.model.head.loss = dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
    whole = run(cfg)
    cfg.work_dir = str(tmp_path / 'interrupted')
    for stop_after in (3, 9, 15):
        stop_after += 1 if 'max_iters' in cfg.train_cfg else 0  # checkpoints stand at even iterations
        run(cfg, stop_after=stop_after, resume=stop_after > 4)
    resumed = run(cfg, resume=True)
    first, second = (load_file((Path(r.work_dir) / 'last_checkpoint').read_text().strip()) for r in (whole, resumed))
    assert first['state_dict'].keys() == second['state_dict'].keys()
    assert all(torch.equal(first['state_dict'][key], second['state_dict'][key]) for key in first['state_dict'])
    assert _equal(first['optimizer']['state'], second['optimizer']['state'])
    assert _equal(first['repnas']['alpha_optimizer'], second['repnas']['alpha_optimizer'])
    assert _equal(first['repnas']['search'], second['repnas']['search'])
    assert first['repnas']['genotype'] == second['repnas']['genotype']


def _equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_validation_leaves_no_trace_in_training(small_cfg, run, tmp_path):
    losses = []
    for i, interval in enumerate((1, 100)):
        small_cfg.train_cfg.val_interval = interval
        small_cfg.work_dir = str(tmp_path / str(i))
        watch = Watch()
        run(small_cfg, watch)
        losses.append(watch.column('loss'))
    assert losses[0] == losses[1]


def test_accumulated_gradients_share_a_sample_and_alpha_steps_with_the_model(small_cfg, by_iter, run):
    cfg = by_iter(small_cfg)
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.custom_hooks[0].update(warmup=0, frozen=0)
    cfg.train_cfg.val_interval = 3  # validation in the middle of an accumulation must not end it
    watch = Watch()
    run(cfg, watch)
    masks, moved = watch.column('mask'), watch.column('moved')
    assert all(np.array_equal(masks[i], masks[i + 1]) for i in range(0, 18, 2))
    assert any(not np.array_equal(masks[i], masks[i + 2]) for i in range(0, 16, 2))
    assert not np.any(moved[0::2])
    assert all(np.any(m) for m in moved[1::2])


def test_frozen_phase_restarts_bn_statistics(small_cfg, run):
    class Count(Hook):
        def after_train_epoch(self, runner):
            if runner.epoch == 4:
                self.batches = runner.model.backbone.stem.branches.kxk.norm.num_batches_tracked.item()

    # C = all candidates, so that every branch sees every batch
    small_cfg.custom_hooks[0].num_branches = 25
    count = Count()
    run(small_cfg, count)
    assert count.batches == 3


def test_without_a_frozen_phase_bn_statistics_are_recalibrated(small_cfg, run):
    small_cfg.custom_hooks[0].update(warmup=0, frozen=0)
    folder = Path(run(small_cfg).work_dir)
    search, subnet = (load_file(folder / name)['state_dict'] for name in ('epoch_6.pth', 'subnet.pth'))
    means = [key for key in subnet if key.endswith('running_mean')]
    assert all(not torch.equal(search[key], subnet[key]) for key in means)
    weights = [key for key in subnet if key.endswith('weight')]
    assert all(torch.equal(search[key], subnet[key]) for key in weights)


def test_memory_constraint_searches_too(small_cfg, run, tmp_path):
    small_cfg.custom_hooks[0].num_branches = None
    counts = []
    for i, memory in enumerate(('130KB', '190KB')):
        small_cfg.custom_hooks[0].memory = memory
        small_cfg.work_dir = str(tmp_path / str(i))
        watch = Watch()
        run(small_cfg, watch)
        counts.append(np.mean(watch.column('buffers')))
    assert 4 < counts[0] < counts[1] < 25


def test_log_and_tensorboard_show_the_search(small_cfg, run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small_cfg.visualizer.vis_backends.append(dict(type='TensorboardVisBackend'))
    runner = run(small_cfg)
    line = next(x for x in Path(runner._log_dir, f'{runner.timestamp}.log').read_text().splitlines() if 'loss:' in x)
    for name in ('phase:', 'branches: 10', 'branches_changed:', 'alpha_gap:'):
        assert name in line
    events = EventAccumulator(str(Path(runner._log_dir, 'vis_data')), size_guidance=dict(images=0)).Reload()
    assert {'phase', 'branches', 'branches_changed', 'alpha_gap'} <= set(events.Tags()['scalars'])
    assert [event.value for event in events.Scalars('phase')] == [0, 0, 1, 1, 2, 2]
    assert [event.step for event in events.Images('alpha')] == [9, 12]  # after the epochs in which it learned


def test_ema_gives_the_weights_and_raw_alpha_the_genotype(small_cfg, run):
    small_cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.2, update_buffers=True))
    small_cfg.custom_hooks[0].update(warmup=0, frozen=0)
    watch = Watch()
    runner = run(small_cfg, watch)
    folder = Path(runner.work_dir)
    checkpoint, subnet = load_file(folder / 'epoch_6.pth'), load_file(folder / 'subnet.pth')
    # the hook stores the averaged weights as state_dict, and the raw ones as ema_state_dict
    average = checkpoint['state_dict']
    assert torch.equal(subnet['state_dict']['backbone.stem.weight'], average['backbone.stem.weight'])
    raw_alpha = np.concatenate(
        [checkpoint['ema_state_dict'][f'module.{name}.alpha'].numpy() for name in find_blocks(runner.model)]
    )
    active = np.concatenate([average[f'{name}.active'].numpy() for name in find_blocks(runner.model)])
    assert np.array_equal(active, Watch._hook(runner).search.keep(raw_alpha.astype(np.float64)))
    assert all(np.array_equal(*pair) for pair in _raw_validations(watch))


def _raw_validations(watch):
    """Validated masks must be those of a fixed C, though EMAHook has swapped α by then."""
    return [(np.array(mask.sum()), np.array(10)) for mask, _ in watch.validated]


class AlphaOfTheAverage(Hook):
    """Whether, behind each iteration, the average has the model's α and weights."""

    priority = 100

    def __init__(self):
        self.same = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        average = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model.module
        pairs = [*zip(runner.model.parameters(), average.parameters(), strict=True)]
        self.same.append(all(torch.equal(*pair) for pair in pairs))


@pytest.mark.parametrize('begin', [dict(begin_epoch=4), dict(begin_iter=10)])
def test_an_average_that_waits_is_the_model(small_cfg, run, begin):
    small_cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.2, **begin))
    watch = AlphaOfTheAverage()
    run(small_cfg, watch)
    assert watch.same[:9] == [True] * 9 and not any(watch.same[10:])


@pytest.mark.parametrize('priority', ['LOW', 'VERY_LOW', 55])
def test_an_average_that_comes_too_late_is_named(small_cfg, run, priority):
    small_cfg.custom_hooks.append(dict(type='EMAHook', priority=priority))
    with pytest.raises(ValueError, match=f'EMAHook comes after the hooks of repnas_mm with its priority .?{priority}'):
        run(small_cfg)


def test_frozen_stages_leave_the_search(small_cfg, run):
    small_cfg.model.backbone.frozen_stages = 1
    small_cfg.custom_hooks[0].num_branches = 5
    runner = run(small_cfg)
    genotype = Genotype.load(Path(runner.work_dir) / 'genotype.json')
    assert list(Watch._hook(runner).search.blocks) == ['backbone.stage_2.0', 'backbone.stage_3.0']
    assert [len(genotype[name]) for name in ('backbone.stem', 'backbone.stage_1.0')] == [6, 7]
    assert sum(len(genotype[name]) for name in ('backbone.stage_2.0', 'backbone.stage_3.0')) == 5


class ScriptedScaler:
    """A loss scaler without a GPU: a scripted scale, and scripted iterations whose gradients overflow."""

    def __init__(self, overflow):
        self.value, self.overflow, self.count = 1024.0, overflow, 0

    def get_scale(self):
        return self.value

    def step(self, optimizer):
        for group in optimizer.param_groups:
            for p in group['params']:
                if p.grad is not None:
                    p.grad.div_(self.value)
        if self.count not in self.overflow:
            optimizer.step()

    def update(self):
        self.value *= 0.5 if self.count in self.overflow else 1.0
        self.count += 1


@OPTIM_WRAPPERS.register_module()
class ScriptedAmp(OptimWrapper):
    """AmpOptimWrapper's protocol, driven by a ScriptedScaler."""

    def __init__(self, overflow=(), **kwargs):
        super().__init__(**kwargs)
        self.loss_scaler = ScriptedScaler(overflow)

    def backward(self, loss, **kwargs):
        (loss * self.loss_scaler.value).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()


def test_amp_unscales_alpha(small_cfg, run, tmp_path):
    alphas = []
    for kind in ('OptimWrapper', 'ScriptedAmp'):
        small_cfg.optim_wrapper.type = kind
        small_cfg.work_dir = str(tmp_path / kind)
        alphas.append(Watch._alpha(run(small_cfg)))
    assert torch.equal(*alphas)  # a scale that is a power of two is exact


def test_amp_skips_alpha_where_it_skips_the_model(small_cfg, run):
    small_cfg.optim_wrapper.update(type='ScriptedAmp', overflow=(7,))
    watch = Watch()
    run(small_cfg, watch)
    assert [bool(np.any(row['moved'])) for row in watch.rows[6:12]] == [True, False, True, True, True, True]


@pytest.mark.parametrize(('lr', 'warned'), [(0.29, True), (0.31, False)])
def test_a_search_whose_alpha_stays_below_the_noise_is_warned_about(small_cfg, run, lr, warned):
    small_cfg.custom_hooks[0].alpha_optimizer.lr = lr  # the deviation of the noise is 1.81
    runner = run(small_cfg, stop_after=1)
    log = Path(runner._log_dir, f'{runner.timestamp}.log').read_text()
    assert (f'Search phase of 6 steps at alpha lr {lr}: alpha moves by about 1.7' in log) is warned
    assert ('Search phase' in log) is warned


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(num_branches=3), 'num_branches=3 is less than the 4 ODBB blocks'),
        (dict(num_branches=26), 'num_branches=26 is more than the 25 candidate branches'),
        (dict(memory='1GiB'), 'exactly one of num_branches and memory'),
        (dict(num_branches=None), 'exactly one of num_branches and memory'),
        (dict(num_branches=None, memory='lots'), "memory='lots' is not a size"),
        (dict(num_branches=None, memory='1KB'), 'memory=1000 bytes is less than'),
        (dict(warmup=-1), 'warmup of RepNASHook must be'),
        (dict(warmup=3, frozen=3), 'leave no search phase in 6 epochs'),
        (dict(temperature=0), 'temperature must be a positive number'),
        (dict(recalibrate_val=-1), 'recalibrate_val of RepNASHook must be a number of images, or 0 for none, got -1'),
        (dict(recalibrate_val=True), 'recalibrate_val of RepNASHook must be'),
    ],
)
def test_bad_arguments_stop_at_the_start(small_cfg, run, change, message):
    small_cfg.custom_hooks[0].update(change)
    with pytest.raises(ValueError, match=message):
        run(small_cfg)


def test_blocks_with_frozen_norms_have_nothing_that_alpha_could_learn_from(small_cfg, run):
    small_cfg.model.backbone.norm_cfg = dict(type='BN', requires_grad=False)
    with pytest.raises(ValueError, match='neither frozen nor with frozen BNs, or remove the hook'):
        run(small_cfg)


def test_a_model_without_blocks_is_refused(small_cfg, run):
    small_cfg.model.backbone = dict(type='LeNet5')
    small_cfg.model.neck = None
    small_cfg.model.head.in_channels = 10
    with pytest.raises(ValueError, match='RepNASHook found no block to search in ImageClassifier'):
        run(small_cfg)
    small_cfg.custom_hooks = small_cfg.custom_hooks[1:]
    with pytest.raises(ValueError, match='FuseHook found no ODBB block in ImageClassifier'):
        run(small_cfg)


def test_several_optimizers_are_refused(small_cfg, run):
    class Two(Hook):
        priority = 'VERY_HIGH'

        def before_run(self, runner):
            runner.optim_wrapper = OptimWrapperDict(one=runner.optim_wrapper)

    with pytest.raises(ValueError, match='needs one OptimWrapper for the whole model, got OptimWrapperDict'):
        run(small_cfg, Two())


def test_resuming_from_a_run_without_search_is_refused(small_cfg, run):
    searching = small_cfg.custom_hooks
    small_cfg.custom_hooks = []
    run(small_cfg, stop_after=3)
    small_cfg.custom_hooks = searching
    with pytest.raises(ValueError, match='was not written by a search'):
        run(small_cfg, resume=True)


def test_resuming_from_a_checkpoint_of_another_version_is_refused(small_cfg, run):
    run(small_cfg, stop_after=3)
    path = Path(small_cfg.work_dir) / 'epoch_1.pth'
    checkpoint = dict(load_file(path))
    checkpoint['repnas'] = dict(checkpoint['repnas'], rng=[])  # as before the hook was split
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match='it is of another version of repnas_mm, so start from its weights with'):
        run(small_cfg, resume=True)


def test_an_alpha_gone_bad_is_named_before_it_draws(small_cfg, run):
    small_cfg.custom_hooks = [hook for hook in small_cfg.custom_hooks if hook.type == 'RepNASHook']

    class Poison(Hook):
        def before_train_epoch(self, runner):
            if runner.epoch == 3:
                runner.model.backbone.stage_2[0].alpha.data[1] = float('nan')

    with pytest.raises(FloatingPointError, match=r"alpha of branch 'kxk' in block 'backbone\.stage_2\.0' is nan;"):
        run(small_cfg, Poison())


def test_a_work_dir_that_cannot_be_written_stops_the_run(small_cfg, run, tmp_path):
    runner = Runner.from_cfg(small_cfg)
    (tmp_path / 'file').write_text('in the way')
    runner._work_dir = str(tmp_path / 'file' / 'run')
    with pytest.raises(OSError, match=r'Work dir .* cannot be written'):
        runner.train()


@pytest.mark.parametrize('search', [True, False], ids=['search', 'subnet'])
@pytest.mark.parametrize('missed', ['weight', 'nothing'])
def test_a_parameter_that_will_not_train_is_named_at_the_start(small_cfg, run, search, missed):
    """By a constructor that takes what the convention of another project finds."""

    @OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
    class ByConvention:
        def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
            self.lr = optim_wrapper_cfg['optimizer']['lr']

        def __call__(self, model):
            found = [p for name, p in model.named_parameters() if missed == 'nothing' or 'inner_norm' not in name]
            return OptimWrapper(torch.optim.SGD(found, self.lr))

    if not search:
        small_cfg.model.backbone.genotype = 'dbb'
        small_cfg.custom_hooks = [dict(type='FuseHook')]
    small_cfg.optim_wrapper.constructor = 'ByConvention'
    runner = run(small_cfg, stop_after=1)
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert ('are in no group of the optimizer' in log) == (missed != 'nothing')
