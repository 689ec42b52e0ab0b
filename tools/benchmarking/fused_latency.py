"""Forward of the fused network beside stock RepVGG in deploy mode, in both memory formats."""

import statistics
from copy import deepcopy

import torch

from measuring.timing import take_turns
from repnas_mm.engine.fusing import exact_float32

from .compared import searched, stock
from .settings import Setting
from .targets import line

#: Forwards of each network a repetition, after one to warm up
ROUNDS = 20


def measure(setting: Setting, times: int) -> list[dict]:
    """Ratios of median latencies, so many times."""
    fused, base = searched(setting), stock(setting)
    fused.switch_to_deploy()
    base.switch_to_deploy()
    images, runs = setting.images(), {}
    for form, memory_format in dict(default=torch.contiguous_format, nhwc=torch.channels_last).items():
        batch = images.to(memory_format=memory_format)
        for name, network in dict(fused=fused, stock=base).items():
            network = deepcopy(network).to(setting.device, memory_format=memory_format)
            network.eval()
            runs[name, form] = lambda network=network, batch=batch: network(batch)
    better, layout, floor = [], [], []
    with torch.inference_mode(), exact_float32(), setting.autocast():
        for _ in range(times):
            seconds = {key: statistics.median(s) for key, s in take_turns(runs, ROUNDS, ROUNDS, 0).items()}
            best = {name: min(seconds[name, form] for form in ('default', 'nhwc')) for name in ('fused', 'stock')}
            better.append(best['fused'] / best['stock'])
            layout.append(seconds['fused', 'nhwc'] / seconds['stock', 'default'])
            floor.append(seconds['stock', 'nhwc'] / seconds['stock', 'default'])
    return [
        line('fused latency ÷ stock RepVGG, both in the better layout', setting, 'fused', better),
        line('fused latency in channels-last ÷ stock RepVGG in the default layout', setting, 'fused', layout),
        line('stock RepVGG in channels-last ÷ itself in the default layout', setting, 'fused', floor),
    ]
