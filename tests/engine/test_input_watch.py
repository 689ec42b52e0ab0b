"""`memory` is kept in every iteration of a multi-scale training, not only for inputs such as the first."""

from pathlib import Path

import pytest
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmpretrain.models import ClsDataPreprocessor, ImageClassifier

from repnas_mm.search import find_blocks
from repnas_mm.search.memory import block_bytes

#: One side a batch: grows in the search, falls, and grows again behind the freeze
SIDES = [16, 16, 24, 16, 24, 16, 16, 32, 24]


@MODELS.register_module()
class MultiScale(ClsDataPreprocessor):
    """Batches of other sizes, as only training has them."""

    count = 0

    def forward(self, data, training=False):
        data = super().forward(data, training)
        if training:
            data['inputs'] = F.interpolate(data['inputs'], size=SIDES[self.count % len(SIDES)])
            self.count += 1
        return data


@pytest.fixture
def cfg(small_cfg):
    """Six iterations of search and three behind them."""
    small_cfg.custom_hooks[0].update(num_branches=None, warmup=0, frozen=1)
    small_cfg.model.data_preprocessor.type = 'MultiScale'
    small_cfg.train_cfg.update(max_epochs=3, val_interval=100)
    return small_cfg


class Bytes(Hook):
    """Bytes that all blocks save for backward, by what really arrives at them."""

    priority = 60

    def __init__(self):
        self.saved, self.branches = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.forwards, blocks = [], find_blocks(runner.model).values()
        self.handles = [block.register_forward_hook(self.note) for block in blocks]

    def note(self, block, inputs, output):
        kept = tuple(block.candidates.index(name) for name in block.active_branches)
        if block.training:
            self.forwards.append((block, tuple(inputs[0].shape), inputs[0].dtype, kept))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        for handle in self.handles:
            handle.remove()
        self.saved.append(sum(block_bytes(*forward) for forward in self.forwards))
        self.branches.append(sum(len(kept) for *_, kept in self.forwards))


def log_of(runner):
    return next(Path(runner.log_dir).glob('*.log')).read_text()


@pytest.mark.parametrize(('strategy', 'memory'), [('sample', 400_000), ('shrink', 500_000)])
def test_every_batch_fits_the_budget(cfg, run, strategy, memory):
    cfg.custom_hooks[0].update(memory=memory, strategy=strategy)
    if strategy == 'shrink':
        cfg.model.backbone.share_weights = False
        del cfg.custom_hooks[0]['alpha_optimizer']
    watch = Bytes()
    runner = run(cfg, watch)
    assert max(watch.saved) <= memory
    assert len({*watch.branches[6:]}) == 1  # the genotype stands
    log = log_of(runner)
    for iteration in (3, 8):
        assert f'Memory of the blocks measured in iteration {iteration}, on inputs of' in log
    assert log.count('Memory of the blocks measured') == 3


def test_a_budget_that_a_frozen_genotype_cannot_keep_is_a_warning(cfg, run, monkeypatch):
    cfg.custom_hooks[0].memory = 160_000
    monkeypatch.setitem(globals(), 'SIDES', [16] * 7 + [64] * 2)
    assert 'bytes that the frozen branches need for inputs as large as these' in log_of(run(cfg))


@MODELS.register_module()
class TwoViews(ImageClassifier):
    """A training computes more than a forward without loss, as a detector whose second stage trains on more boxes."""

    def loss(self, inputs, data_samples):
        views = [super(TwoViews, self).loss(view, data_samples)['loss'] for view in (inputs, inputs.flip(-1))]
        return dict(loss=sum(views))


def test_what_only_a_training_brings_counts_from_the_second_batch_on(small_cfg, run):
    small_cfg.custom_hooks[0].update(num_branches=None, warmup=0, frozen=1, memory=400_000)
    small_cfg.model.type = 'TwoViews'
    small_cfg.train_cfg.update(max_epochs=3, val_interval=100)
    watch = Bytes()
    log = log_of(run(small_cfg, watch))
    assert max(watch.saved[1:]) <= 400_000 < watch.saved[0]
    assert 'Memory of the blocks measured in iteration 2, on what the last one brought' in log
    assert log.count('Memory of the blocks measured') == 2
