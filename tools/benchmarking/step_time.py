"""A training step of the search beside one of stock RepVGG, of the naive block and of a fixed subnet."""

import statistics
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from measuring.operations import multiply_adds
from measuring.timing import take_turns

from .compared import TrainingStep, repvgg_branches, searched, stock, subnet
from .draws import draws, searches
from .naive import naive
from .settings import Setting
from .targets import line

#: Steps of each network a draw, after one to warm up
ROUNDS = 3


def measure(setting: Setting, times: int) -> list[dict]:
    """Ratios of time and peak memory of a step, over so many draws of the gates and half as often the authors'."""
    base, backbone = stock(setting), searched(setting)
    rival, num_branches = naive(backbone), repvgg_branches(backbone)
    base_work = multiply_adds(base, setting.in_channels, setting.image_size)
    search, same = searches(backbone, rival, num_branches)
    networks = {'search': (backbone, search), 'stock RepVGG': (base, None), 'naive': (rival, same)}
    runs = {name: TrainingStep(network, setting, of).run for name, (network, of) in networks.items()}
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    for gates in draws(search, same, setting.arch, times, -(-times // 2)):
        runs['fixed subnet'] = TrainingStep(subnet(backbone), setting).run
        seconds = take_turns(runs, ROUNDS, ROUNDS, 0)
        peaks = {name: _peak(run, setting.device) for name, run in runs.items()}
        work = multiply_adds(backbone, setting.in_channels, setting.image_size) / base_work
        ratios['multiply-adds ÷ stock RepVGG', gates].append(work)
        for name in ('stock RepVGG', 'naive', 'fixed subnet'):
            time = statistics.median(a / b for a, b in zip(seconds['search'], seconds[name]))
            ratios[f'step time ÷ {name}', gates].append(time)
            if name == 'stock RepVGG':
                ratios[f'step time per multiply-add ÷ {name}', gates].append(time / work)
            ratios[f'peak memory of a step ÷ {name}', gates].append(peaks['search'] / peaks[name])
    return [line(what, setting, gates, values) for (what, gates), values in ratios.items()]


def _peak(run: Callable, device: str) -> int:
    """Most bytes allocated at one time in a step, beyond those before it."""
    if torch.device(device).type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(changes).max())
