"""A training step of a shrinking search under torch.compile, beside the same without it."""

import statistics
from copy import deepcopy

import numpy as np

from measuring.timing import take_turns
from repnas_mm.engine import RepNASHook
from repnas_mm.search import find_blocks

from .compared import TrainingStep, repvgg_branches, searched, subnet
from .settings import Setting
from .targets import line

#: Steps of each network, and those before, in which counters make dynamo compile the step a second and third time
ROUNDS, WARMUP = 10, 4
#: For torch.compile, by device. On the CPU its choice of layouts ends in shapes that oneDNN refuses.
OPTIONS: dict[str, dict] = dict(cpu=dict(options={'layout_optimization': False}), cuda={})


def measure(setting: Setting, times: int) -> list[dict]:
    """Ratios of step times before and behind the cut, so many times. Compiling takes minutes."""
    backbone = searched(setting, share_weights=False)
    search = RepNASHook(repvgg_branches(backbone)).strategy.new_search(find_blocks(backbone))
    search.apply(*search.sample())
    networks = {'all that train': deepcopy(backbone)}
    search.apply(search.keep(np.random.default_rng(0).random(len(search.kinds))))
    networks['random'] = subnet(backbone)
    rows = []
    for gates, network in networks.items():
        runs = {
            'compiled': TrainingStep(deepcopy(network), setting, compile_options=OPTIONS[setting.device]).run,
            'eager': TrainingStep(network, setting).run,
        }
        for _ in range(WARMUP):
            runs['compiled']()
        ratios = []
        for _ in range(times):
            seconds = {name: statistics.median(s) for name, s in take_turns(runs, ROUNDS, ROUNDS, 0).items()}
            ratios.append(seconds['compiled'] / seconds['eager'])
        rows.append(line('step time of a shrinking search, compiled ÷ not compiled', setting, gates, ratios))
    return rows
