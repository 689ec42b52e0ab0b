"""Table 3's search in one stage beside hand-made networks, on longer and longer schedules."""

from collections.abc import Sequence
from dataclasses import replace

from mmengine.config import Config

from measuring.reports import Report, series
from repnas_mm.engine.phases import Phases

from ..lab import Lab
from ..random_search import DRAWS
from ..scales import Scale
from ..shared_trainings import accuracy, branches_of, cpu_seconds, network, search
from ..tradeoff import plot_tradeoff
from ..training import Training

#: C of the search: what ACB has
BRANCHES = 39
#: Hand-made blocks beside it
COMPARED = ('plain', 'dbb')


def make(lab: Lab, scale: Scale, seeds: Sequence[int]) -> Report:
    """Train all for every number of epochs; on longer schedules the search takes a fifth, as `RepNASHook` does."""
    groups = {
        'odbb': [search(scale.ablation, BRANCHES, seed) for seed in seeds],
        **{m: [network(scale.ablation.format(m), seed) for seed in seeds] for m in COMPARED},
    }
    configs = {method: group[0].load_config(lab.configs) for method, group in groups.items()}
    trainings = {
        (method, epochs): [stretched(training, configs[method], epochs) for training in group]
        for epochs in reversed(scale.lengths)  # so that in the end no process is left with a long one
        for method, group in groups.items()
    }
    results = lab.run(t for group in trainings.values() for t in group)
    groups = {key: [results[t] for t in group] for key, group in sorted(trainings.items())}
    means = {key: accuracy(group) for key, group in groups.items()}
    own = configs['plain'].train_cfg.max_epochs
    branches = {'odbb': BRANCHES, **{m: branches_of(scale, m) for m in COMPARED}}
    return Report(
        'schedule',
        f'Table 3: one stage on longer schedules, {scale.name}',
        [
            {
                'block': method,
                'branches': branches[method],
                'epochs': epochs,
                'seeds': len(seeds),
                'top-1 (%)': mean,
                'CPU seconds': cpu_seconds(groups[method, epochs]),
            }
            for (method, epochs), mean in means.items()
        ],
        {'': plot_tradeoff(series(means), {}, 'epochs', 'top-1 (%)')},
        notes=[
            f'Table 3 has {own} epochs, on which its random search takes {DRAWS * scale.short_epochs + own} in all. '
            'On it the search takes the first epoch, on a longer one a fifth. Bars are standard errors over seeds.'
        ],
    )


def stretched(training: Training, cfg: Config, epochs: int) -> Training:
    """The training of ``cfg`` with so many epochs: its last scheduler takes what is added, a search a fifth of all."""
    added = epochs - cfg.train_cfg.max_epochs
    if not added:
        return training
    last = len(cfg.param_scheduler) - 1
    options = {
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': epochs,
        f'param_scheduler.{last}.T_max': cfg.param_scheduler[last].T_max + added,
        f'param_scheduler.{last}.end': epochs,
    }
    for i, hook in enumerate(cfg.custom_hooks):
        if hook.type == 'RepNASHook':
            options[f'custom_hooks.{i}.frozen'] = Phases(0, None).frozen_of(epochs)
    return replace(training, name=f'{training.name}-{epochs}epochs', options={**training.options, **options})
