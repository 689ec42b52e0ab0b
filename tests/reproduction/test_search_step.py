"""Steps that really search, and the networks whose cost is told."""

import pytest
import torch
from mmengine.config import Config
from mmpretrain import get_model

from repnas_mm.search import find_blocks
from reproduction import SCALES, search_step
from reproduction.items.table4 import fused_network

from pretended import CONFIGS  # isort: skip


@pytest.mark.parametrize(('arch', 'parameters'), [('A1', 12_789_864), ('A2', 25_499_944)])
def test_fused_odbb_is_the_paper_s_size(arch, parameters, fake_lab):
    model = fused_network(fake_lab(), SCALES['imagenet'], arch)
    assert sum(p.numel() for p in model.parameters()) == parameters


def digits(**hook):
    cfg = Config.fromfile(CONFIGS / 'odbb_digits.py')
    cfg.custom_hooks[0] = dict(type='RepNASHook', num_branches=24, **hook)
    return cfg


@pytest.fixture
def model(monkeypatch):
    """The network whose steps are made."""
    made = []
    monkeypatch.setattr(
        search_step, 'get_model', lambda *args, **kwargs: made.append(get_model(*args, **kwargs)) or made[0]
    )
    return lambda: made[0]


def changes(model, step):
    """Active branches, whether weights moved and whether α did, in a step."""
    blocks = find_blocks(model).values()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step()
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    branches = sum(len(block.active_branches) for block in blocks)
    return branches, any(name.endswith('weight') for name in moved), any(name.endswith('alpha') for name in moved)


def test_a_step_of_algorithm_1_draws_c_branches_and_learns_weights_and_alpha(model):
    cfg = digits(strategy='sample')
    cfg.model.backbone.share_weights = True
    ((part, step),) = search_step.search_steps(cfg)
    assert part == 1 and changes(model(), step) == (24, True, True)
    first = [block.active_branches for block in find_blocks(model()).values()]
    step()
    assert [block.active_branches for block in find_blocks(model()).values()] != first


def test_steps_of_a_shrinking_search_are_those_before_and_behind_the_cut(model):
    (before, search), (behind, train) = search_step.search_steps(digits(frozen=45))
    assert (before, behind) == (0.25, 0.75)
    assert changes(model(), search) == (42, True, True)
    assert changes(model(), train) == (24, True, False)


def test_seconds_are_weighted_by_the_parts_of_the_schedule(monkeypatch):
    monkeypatch.setattr(search_step, 'search_steps', lambda *_: [(0.25, 'search'), (0.75, 'train')])
    monkeypatch.setattr(search_step, 'medians', lambda runs: {'step': {'search': 4.0, 'train': 2.0}[runs['step']]})
    assert search_step.step_seconds(None) == 2.5


def test_a_pipeline_that_tells_no_size_is_named():
    cfg = Config.fromfile(CONFIGS / 'odbb_digits.py')
    cfg.train_dataloader.dataset.pipeline = [dict(type='PackInputs')]
    with pytest.raises(ValueError, match=r'^No transform of the training pipeline has a crop_size or scale [^.]*\.$'):
        search_step.search_steps(cfg)
