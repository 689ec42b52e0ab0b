"""BN statistics gathered anew on training images, past the loader of the training."""

import random

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from repnas_mm.engine.recalibrate import recalibrate


@pytest.fixture
def model(small_cfg):
    init_default_scope('mmpretrain')
    return MODELS.build(small_cfg.model)


def loader_of(cfg, seed: int = 0) -> DataLoader:
    return Runner.build_dataloader(cfg.train_dataloader, seed=seed)


def means(model) -> torch.Tensor:
    return torch.cat([value for name, value in model.named_buffers() if name.endswith('running_mean')])


def seen_by(model) -> list[int]:
    """Batch sizes, as they come."""
    sizes = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


@pytest.mark.parametrize(('images', 'batches'), [(1, 1), (16, 1), (40, 2), (8192, 3)])
def test_it_takes_whole_batches_and_at_least_one(small_cfg, model, images, batches):
    seen = seen_by(model)
    recalibrate(model, loader_of(small_cfg), images)
    assert seen == [16] * batches


def test_a_data_set_smaller_than_a_batch_is_a_batch(small_cfg, model):
    small_cfg.train_dataloader.dataset.indices = 10
    seen = seen_by(model)
    recalibrate(model, loader_of(small_cfg))
    assert seen == [10]


def test_a_loader_with_a_batch_sampler_has_a_batch_size_too(small_cfg, model):
    stock = loader_of(small_cfg)
    seen = seen_by(model)
    recalibrate(
        model,
        DataLoader(
            stock.dataset, batch_sampler=BatchSampler(stock.sampler, 12, drop_last=False), collate_fn=stock.collate_fn
        ),
    )
    assert seen == [12] * 4


def test_two_calls_agree_whatever_the_random_state_and_the_seed_of_the_loader(small_cfg, model):
    found = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        recalibrate(model, loader_of(small_cfg, seed))
        found.append(means(model))
    assert torch.equal(*found)


def test_momenta_come_back_where_a_batch_raises(small_cfg, model):
    loader = loader_of(small_cfg)
    model.backbone.stage_3.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        recalibrate(model.eval(), loader)
    assert not model.training
    assert {m.momentum for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}


def test_norms_that_rest_keep_their_statistics(small_cfg, model):
    small_cfg.model.backbone.frozen_stages = 1
    model = MODELS.build(small_cfg.model)
    frozen = means(model.backbone.stem)
    recalibrate(model, loader_of(small_cfg))
    assert torch.equal(means(model.backbone.stem), frozen)
    assert means(model.backbone.stage_3).any()


@pytest.mark.parametrize('sizes', [(0, 16, 16), (16, 0, 16), (16, 16, 0)])
def test_batches_without_content_count_for_nothing(small_cfg, model, sizes):
    """As behind RoIs of which an image has none."""
    head = nn.BatchNorm2d(1)
    model.add_module('head_norm', head)
    seen, wanted = iter(sizes), []

    def look(_, inputs):
        x = inputs[0][: next(seen)]
        wanted.append(x)
        head(x)

    model.backbone.register_forward_pre_hook(look)
    recalibrate(model, loader_of(small_cfg))
    full = [x for x in wanted if len(x)]
    torch.testing.assert_close(head.running_mean, torch.stack([x.mean((0, 2, 3)) for x in full]).mean(0))
    torch.testing.assert_close(head.running_var, torch.stack([x.var((0, 2, 3)) for x in full]).mean(0))
