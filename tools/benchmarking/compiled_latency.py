"""Forward of the fused network under torch.compile, beside the same and stock RepVGG without it."""

import statistics
from copy import deepcopy

import torch

from measuring.timing import take_turns
from repnas_mm.engine.fusing import exact_float32

from .compared import searched, stock
from .fused_latency import ROUNDS
from .settings import Setting
from .targets import line


def measure(setting: Setting, times: int) -> list[dict]:
    """Ratios of median latencies, so many times. Compiling takes half a minute and, on the CPU, a C++ compiler."""
    fused, base = searched(setting), stock(setting)
    for network in (fused, base):
        network.switch_to_deploy()
        network.to(setting.device).eval()
    channels_last = deepcopy(fused).to(memory_format=torch.channels_last)
    images = setting.images()
    there = images.to(memory_format=torch.channels_last)
    # frozen: weights are constants, which oneDNN then keeps in the layout that it computes in
    compiled = torch.compile(deepcopy(channels_last), options={'freezing': True})
    runs = {
        'compiled': lambda: compiled(there),
        'channels-last': lambda: channels_last(there),
        'stock': lambda: base(images),
    }
    ratios: dict[str, list[float]] = {
        'fused latency, compiled in channels-last ÷ not compiled': [],
        'fused latency, compiled in channels-last ÷ stock RepVGG in the default layout': [],
    }
    with torch.no_grad(), exact_float32(), setting.autocast():
        for _ in range(times):
            seconds = {name: statistics.median(s) for name, s in take_turns(runs, ROUNDS, ROUNDS, 0).items()}
            for what, other in zip(ratios, ('channels-last', 'stock')):
                ratios[what].append(seconds['compiled'] / seconds[other])
    return [line(what, setting, 'fused', values) for what, values in ratios.items()]
