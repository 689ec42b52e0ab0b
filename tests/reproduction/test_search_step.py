"""Steps that really search, and the networks whose cost is told."""

import pytest
import torch
from mmengine.config import Config

from reproduction import SCALES
from reproduction.items.table4 import fused_network
from reproduction.search_step import search_step

from pretended import CONFIGS  # isort: skip


@pytest.mark.parametrize(('arch', 'parameters'), [('A1', 12_789_864), ('A2', 25_499_944)])
def test_fused_odbb_is_the_paper_s_size(arch, parameters, fake_lab):
    model = fused_network(fake_lab(), SCALES['imagenet'], arch)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_a_step_samples_c_branches_and_learns_weights_and_alpha():
    cfg = Config.fromfile(CONFIGS / 'odbb_digits.py')
    cfg.model.backbone.share_weights = True
    cfg.custom_hooks[0] = dict(type='RepNASHook', strategy='sample', num_branches=24)
    step, search = search_step(cfg)
    weights = next(iter(search.blocks.values())).weight
    before = weights.detach().clone(), [alpha.detach().clone() for alpha in search.alphas]
    step()
    masks = [block.active for block in search.blocks.values()]
    assert sum(int(mask.sum()) for mask in masks) == 24
    assert not torch.equal(weights, before[0])
    assert any(not torch.equal(a, b) for a, b in zip(search.alphas, before[1]))


def test_a_pipeline_that_tells_no_size_is_named():
    cfg = Config.fromfile(CONFIGS / 'odbb_digits.py')
    cfg.train_dataloader.dataset.pipeline = [dict(type='PackInputs')]
    with pytest.raises(ValueError, match=r'^No transform of the training pipeline has a crop_size or scale [^.]*\.$'):
        search_step(cfg)
