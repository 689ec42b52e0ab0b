"""Batches of the training, seen outside of it, are preprocessed as it does, and leave no trace in it."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import RepeatDataset
from mmengine.hooks import Hook
from mmengine.registry import FUNCTIONS
from mmengine.runner import Runner
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS, TRANSFORMS
from mmpretrain.structures import DataSample

from repnas_mm.engine.rng import rng_state
from repnas_mm.engine.training_batches import first_batch, training_inputs


@FUNCTIONS.register_module()
def fast_collate(samples):
    """Images of several sizes, and labels in one tensor, as mmyolo's `yolov5_collate` makes them."""
    images = [sample['inputs'][..., i % 3 :].contiguous() for i, sample in enumerate(samples)]
    labels = torch.cat([sample['data_samples'].gt_label for sample in samples])
    return dict(inputs=images, data_samples=dict(labels=labels))


@MODELS.register_module()
class OnlyInTraining(ClsDataPreprocessor):
    """Understands `fast_collate` with training=True alone, is random and has a memory."""

    calls = 0

    def forward(self, data, training=False):
        if isinstance(data['data_samples'], dict):
            assert training, 'The image size in a batch should be the same'
            samples = [DataSample().set_gt_label(label) for label in data['data_samples'].pop('labels')]
            data.update(data_samples=samples)
        if training:
            self.calls += 1
            data['inputs'] = [image.float() + self.calls * torch.rand(()) + random.random() for image in data['inputs']]
        return super().forward(data, training)


@TRANSFORMS.register_module()
class Remember:
    """As CachedMosaic: what comes out depends on what came before."""

    def __init__(self):
        self.seen = 0

    def __call__(self, results):
        self.seen += 1
        results['img'] = np.clip(results['img'].astype(int) + self.seen % 7, 0, 255).astype(np.uint8)
        return results


@pytest.fixture
def only_in_training(small_cfg):
    """4 epochs, 1 of them frozen."""
    small_cfg.model.data_preprocessor = dict(type='OnlyInTraining', mean=[80.0], std=[96.0])
    small_cfg.train_dataloader.collate_fn = dict(type='fast_collate')
    small_cfg.train_dataloader.dataset.pipeline.insert(1, dict(type='Remember'))
    small_cfg.train_cfg.update(max_epochs=4, val_interval=2)
    small_cfg.custom_hooks[0].update(warmup=0, frozen=1)
    return small_cfg


def to_shrink(cfg):
    cfg.model.backbone.share_weights = False
    del cfg.custom_hooks[0]['alpha_optimizer']
    cfg.custom_hooks[0].strategy = 'shrink'


class Losses(Hook):
    def __init__(self):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())


@pytest.mark.parametrize('kind', ['recalibrated', 'memory', 'absorbed by an average'])
def test_what_only_a_training_understands_is_searched_and_fused(only_in_training, run, kind):
    if kind == 'recalibrated':
        only_in_training.custom_hooks[0].frozen = 0
    elif kind == 'memory':
        only_in_training.custom_hooks[0].update(num_branches=None, memory='1GiB')
    else:
        to_shrink(only_in_training)
        only_in_training.custom_hooks.append(dict(type='EMAHook', momentum=0.2))
    folder = Path(run(only_in_training).work_dir)
    assert {'genotype.json', 'subnet.pth', 'fused.pth'} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize('strategy', ['sample', 'shrink'])
def test_rehearsal_and_validation_leave_no_trace(only_in_training, run, tmp_path, monkeypatch, strategy):
    if strategy == 'shrink':
        to_shrink(only_in_training)
    only_in_training.custom_hooks.append(dict(type='EMAHook', momentum=0.2))
    only_in_training.custom_hooks[0].pop('warmup')
    watches, weights = [Losses(), Losses()], []
    for watch in watches:
        only_in_training.work_dir = str(tmp_path / str(len(weights)))
        runner = run(only_in_training, watch)
        weights.append(torch.cat([value.double().flatten() for value in runner.model.state_dict().values()]))
        only_in_training.train_cfg.val_interval = 100
        monkeypatch.setattr('repnas_mm.engine.hooks.RepNASHook._rehearse', lambda *_: None)
        monkeypatch.setattr('repnas_mm.engine.hooks.fuse_hook.is_fused', lambda _: True)
    assert watches[0].losses == watches[1].losses and torch.equal(*weights)


def test_a_batch_its_preprocessor_and_random_states_stay_as_they_are(only_in_training):
    loader = Runner.build_dataloader(only_in_training.train_dataloader, seed=0)
    model = MODELS.build(only_in_training.model)
    state = str(rng_state())
    batch = first_batch(loader, 8)
    first, second = (training_inputs(model, batch) for _ in range(2))
    assert torch.equal(first['inputs'], second['inputs']) and len(first['inputs']) == 8
    assert model.data_preprocessor.calls == 0 and list(batch['data_samples']) == ['labels']
    assert str(rng_state()) == state


def test_a_batch_is_no_larger_than_in_training(only_in_training):
    only_in_training.train_dataloader.batch_size = 3
    batch = first_batch(Runner.build_dataloader(only_in_training.train_dataloader, seed=0))
    assert len(batch['inputs']) == 3


@pytest.mark.parametrize('workers', [0, 1])
def test_transforms_keep_their_memory_also_inside_other_data_sets(only_in_training, workers):
    cfg = only_in_training.train_dataloader
    cfg.num_workers = workers
    loader = Runner.build_dataloader(cfg, seed=0)
    inner = loader.dataset
    for dataset in (inner, RepeatDataset(inner, 2), torch.utils.data.ConcatDataset([inner, inner])):
        other = torch.utils.data.DataLoader(dataset, 4, num_workers=workers, collate_fn=loader.collate_fn)
        assert torch.equal(first_batch(other)['inputs'][0], first_batch(other)['inputs'][0])
    assert inner.pipeline.transforms[1].seen == 0
