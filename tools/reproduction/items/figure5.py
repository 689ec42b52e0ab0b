"""Figure 5: shared against unshared weights."""

from collections.abc import Sequence

from mmengine.config import Config

from measuring.reports import Mean, Report, series
from repnas_mm.engine.checkpoint import build_model, load_file
from repnas_mm.search import Genotype

from ..lab import Lab
from ..scales import Scale
from ..shared_trainings import ACCURACY, from_scratch, network
from ..tradeoff import plot_tradeoff
from ..training import Result, Training


def make(lab: Lab, scale: Scale, seeds: Sequence[int]) -> Report:
    """Search with both kinds of weights, sample subnets on the way, and train those from scratch."""
    searches = {kind: [_search(scale, method, seed) for seed in seeds] for kind, method in methods(scale).items()}
    found = lab.run(t for group in searches.values() for t in group)
    subnets = {
        (kind, epoch): [_subnet(scale, kind, epoch, t, found[t], seed) for t, seed in zip(group, seeds)]
        for kind, group in searches.items()
        for epoch in scale.snapshots
    }
    trained = lab.run(t for group in subnets.values() for t in group)
    rows = []
    for kind, group in searches.items():
        results = [found[t] for t in group]
        for epoch in results[0].by_epoch:
            mean = Mean(tuple(result.by_epoch[epoch][ACCURACY] for result in results))
            rows.append(_row(kind, 'supernet', epoch, mean))
    for (kind, epoch), group in subnets.items():
        rows.append(_row(kind, 'subnet', epoch, Mean(tuple(trained[t].metrics[ACCURACY] for t in group))))
    curves = series({(f'{row["network"]}, {row["weights"]}', row['epoch']): row['top-1 (%)'] for row in rows})
    return Report(
        'figure5',
        f'Figure 5: shared against unshared weights, {scale.name}',
        rows,
        {'': plot_tradeoff(curves, {}, 'epoch of the search', 'top-1 (%)')},
        notes=[
            'A supernet is validated with its best branches by α. A '
            'subnet has the best branches of that epoch, as shared as its supernet, and is trained from scratch on the '
            'full schedule. Bars are standard errors over seeds. The paper has RepVGG-A0 on ImageNet and a plot only: '
            'with shared weights the supernet converges faster, and its subnets are better and vary less.'
        ],
    )


def methods(scale: Scale) -> dict[str, str]:
    """Kind of weights -> method of the config that searches by Algorithm 1 with it."""
    return {'shared': scale.algorithm1, 'unshared': 'unshared'}


def _row(kind: str, network: str, epoch: int, mean: Mean) -> dict:
    return {'network': network, 'weights': kind, 'epoch': epoch, 'seeds': len(mean.values), 'top-1 (%)': mean}


def _search(scale: Scale, method: str, seed: int) -> Training:
    """Algorithm 1 to the last epoch, with every checkpoint that a subnet is sampled from."""
    options = dict(
        custom_hooks__0__frozen=0,
        custom_hooks__0__recalibrate_val=0,  # as the shipped results were validated
        train_cfg__val_interval=1,
        default_hooks__checkpoint__interval=scale.snapshots[0],
        default_hooks__checkpoint__max_keep_ckpts=-1,
    )
    return network(scale.ablation.format(method), seed, 'unfrozen', **options)


def _subnet(scale: Scale, kind: str, epoch: int, training: Training, result: Result, seed: int) -> Training:
    """The best branches by α after ``epoch`` epochs of a search."""
    path = result.folder / f'genotype_{epoch}.json'
    if not path.exists():
        checkpoint = load_file(result.folder / f'epoch_{epoch}.pth')
        model = build_model(Config.fromfile(result.folder / f'{training.config}.py'), checkpoint)
        Genotype.from_model(model, dict(config=training.config, seed=seed, epoch=epoch)).dump(path)
    return from_scratch(scale.ablation, Genotype.load(path), seed, f'{kind}-epoch{epoch}')
