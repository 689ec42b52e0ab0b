"""Stock networks as they are, with RepVGG's branches in the place of their K×K convolutions, and searched."""

from collections.abc import Sequence

from mmpretrain import get_model

from measuring.reports import Report
from repnas_mm.search import Genotype, find_candidates

from ..lab import Lab
from ..scales import Scale
from ..shared_trainings import accuracy, cpu_seconds, network
from ..training import Training
from .figure1 import TRAINED


def make(lab: Lab, scale: Scale, seeds: Sequence[int]) -> Report:
    """Train every network in each of the three ways with every seed."""
    trainings: dict[tuple[str, str], list[Training]] = {}
    branches: dict[tuple[str, str], int] = {}
    for name, stock in TRAINED.items():
        config = f'{stock}_{scale.name}'
        base = network(config, 0).load_config(lab.configs).model.backbone
        candidates = find_candidates(get_model(blocks_in(config, base, 0).load_config(lab.configs)))
        count = Genotype.from_preset('repvgg', candidates).num_branches
        trainings |= {
            (name, 'stock'): [network(config, seed) for seed in seeds],
            (name, 'repvgg'): [blocks_in(config, base, seed) for seed in seeds],
            (name, 'odbb'): [blocks_in(config, base, seed, count) for seed in seeds],
        }
        branches |= {(name, 'stock'): len(candidates), (name, 'repvgg'): count, (name, 'odbb'): count}
    results = lab.run(t for group in trainings.values() for t in group)
    groups = {key: [results[t] for t in group] for key, group in trainings.items()}
    return Report(
        'stock',
        f'Stock networks, searched, {scale.name}',
        [
            {
                'network': name,
                'block': method,
                'branches': branches[name, method],
                'seeds': len(seeds),
                'top-1 (%)': accuracy(group),
                'CPU seconds': cpu_seconds(group),
            }
            for (name, method), group in groups.items()
        ],
        notes=[
            "mmpretrain's networks at the fraction of their width that their names give. `stock` trains them as they "
            'are; in `repvgg` and `odbb` every K×K convolution, depth-wise ones included, is a block by '
            "`ODBBBackbone(base=...)`: with RepVGG's branches, or searched by `strategy='shrink'` with as many "
            'branches. The schedule is the same, and what is left in the end is the stock network.',
            'CPU seconds are those of one training on one core, validation included, a mean over seeds.',
        ],
    )


def blocks_in(config: str, base: dict, seed: int, num_branches: int | None = None) -> Training:
    """The training of ``config`` with the convolutions of its backbone ``base`` as blocks.

    They are searched with C = ``num_branches``, or RepVGG's where that is None.
    """
    backbone = dict(_delete_=True, type='ODBBBackbone', base=dict(base))
    hooks = [dict(type='FuseHook')]
    if num_branches is None:
        method, backbone['genotype'] = 'repvgg', 'repvgg'
    else:
        method, hooks = 'odbb', [dict(type='RepNASHook', num_branches=num_branches), *hooks]
    return network(config, seed, method, model__backbone=backbone, custom_hooks=hooks)
