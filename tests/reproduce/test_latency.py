"""Parameters and FLOPs against numbers counted by hand, latencies of every model, steps that really search."""

import pytest
import torch
from mmengine.config import Config
from torch import nn

from repnas_mm.reproduce import PRESETS, latency
from repnas_mm.reproduce.items.table4 import fused_network
from repnas_mm.reproduce.latency import complexity, latencies, search_step

from pretended import CONFIGS  # isort: skip


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(latency, 'SECONDS', 0.0)


def test_flops_are_multiply_adds():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Flatten(),
        nn.Linear(4 * 16, 10),
    )
    parameters, flops = complexity(net, 8)
    assert parameters == 4 * 3 * 9 + 8 + (4 * 2 * 9 + 4) + (64 * 10 + 10)
    norm = 2 * 4 * 16
    assert flops == 16 * (4 * 3 * 9) + norm + 16 * (4 * 2 * 9) + 64 * 10


@pytest.mark.parametrize(('arch', 'parameters'), [('A1', 12_789_864), ('A2', 25_499_944)])
def test_fused_odbb_is_the_paper_s_size(arch, parameters, fake_lab):
    model = fused_network(fake_lab(), PRESETS['imagenet'], arch)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize('channels_last', [False, True])
def test_latencies_measure_every_model_in_its_own_format(channels_last):
    seen = {}

    class Net(nn.Conv2d):
        def forward(self, x):
            seen[self.in_channels] = (
                x.shape,
                x.is_contiguous(memory_format=torch.channels_last),
                self.training,
                torch.is_inference_mode_enabled(),
            )
            return super().forward(x)

    models = {'grey': Net(1, 4, 3), 'color': Net(3, 4, 3)}
    measured = latencies(models, 2, 8, channels_last, in_channels={'grey': 1, 'color': 3})
    assert list(measured) == ['grey', 'color'] and all(seconds > 0 for seconds in measured.values())
    assert seen[3] == ((2, 3, 8, 8), channels_last, False, True)
    assert seen[1][0] == (2, 1, 8, 8)


def test_a_step_samples_c_branches_and_learns_weights_and_alpha():
    cfg = Config.fromfile(CONFIGS / 'odbb_digits.py')
    step, search = search_step(cfg)
    weights = next(iter(search.blocks.values())).weight
    before = weights.detach().clone(), [alpha.detach().clone() for alpha in search.alphas]
    step()
    masks = [block.active for block in search.blocks.values()]
    assert sum(int(mask.sum()) for mask in masks) == cfg.custom_hooks[0].num_branches == 24
    assert not torch.equal(weights, before[0])
    assert any(not torch.equal(a, b) for a, b in zip(search.alphas, before[1]))


def test_a_pipeline_that_tells_no_size_is_named():
    cfg = Config.fromfile(CONFIGS / 'odbb_digits.py')
    cfg.train_dataloader.dataset.pipeline = [dict(type='PackInputs')]
    with pytest.raises(ValueError, match=r'^No transform of the training pipeline has a crop_size or scale [^.]*\.$'):
        search_step(cfg)
