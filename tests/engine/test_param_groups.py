"""Parameters with the same settings are in one group of the optimizer, and train as in groups of their own."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

from repnas_mm.engine.hooks import repnas_hook


class Rates(Hook):
    """lr and momentum of every parameter, in every iteration, and the number of groups."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        names = {id(parameter): name for name, parameter in runner.model.named_parameters()}
        groups = runner.optim_wrapper.optimizer.param_groups
        self.groups = len(groups)
        self.seen.append(
            {names[id(p)]: (g['lr'], g['momentum'], g['weight_decay']) for g in groups for p in g['params']}
        )


SCHEDULERS = dict(
    several=[
        dict(type='LinearLR', start_factor=0.1, end=5, by_epoch=False),
        dict(type='CosineAnnealingLR', begin=5, T_max=13, by_epoch=False),
        dict(type='LinearMomentum', start_factor=0.5, end=18, by_epoch=False),
    ],
    one_cycle=dict(type='OneCycleLR', eta_max=0.1, total_steps=18, by_epoch=False),
    plateau=dict(type='ReduceOnPlateauLR', monitor='accuracy/top1', rule='greater', patience=1, threshold=9.0),
    none=None,
)


@pytest.fixture
def cfg(small_cfg):
    small_cfg.optim_wrapper.paramwise_cfg = dict(
        norm_decay_mult=0.0, custom_keys={'stem': dict(lr_mult=0.5), 'head': dict(decay_mult=2.0)}
    )
    return small_cfg


@pytest.mark.parametrize('schedulers', SCHEDULERS.values(), ids=SCHEDULERS)
def test_every_parameter_trains_as_in_a_group_of_its_own(cfg, run, monkeypatch, tmp_path, schedulers):
    cfg.param_scheduler = schedulers
    watches, models = [Rates(), Rates()], []
    for i, watch in enumerate(watches):
        cfg.work_dir = str(tmp_path / str(i))
        models.append(run(cfg, watch).model.state_dict())
        monkeypatch.setattr(repnas_hook, 'merge_groups', lambda runner: None)
    assert watches[0].groups == 4 and watches[1].groups == 79
    assert watches[0].seen == watches[1].seen and len(watches[0].seen) == 18
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[1])


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ByKind(DefaultOptimWrapperConstructor):
    """Of other code, which may look for its groups by their numbers."""


def test_groups_of_other_constructors_stay(cfg, run):
    cfg.optim_wrapper.constructor = 'ByKind'
    watch = Rates()
    run(cfg, watch)
    assert watch.groups == 79


def test_groups_stay_where_a_scheduler_holds_what_may_be_a_value_for_each(cfg, run):
    class Odd(Hook):
        def before_run(self, runner):
            runner.param_schedulers[0].rates = [0] * len(runner.optim_wrapper.param_groups)

    watch = Rates()
    run(cfg, Odd(), watch)
    assert watch.groups == 79


def test_a_resume_with_other_groups_is_refused(cfg, run):
    run(cfg, stop_after=3)
    cfg.optim_wrapper.paramwise_cfg.custom_keys.pop('head')
    with pytest.raises(ValueError, match='resume with the paramwise_cfg and model that it came from'):
        run(cfg, resume=True)
