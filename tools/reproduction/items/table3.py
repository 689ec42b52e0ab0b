"""Table 3: VGG-16 with hand-made blocks, with the best of random draws, and searched."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from measuring.reports import Mean, Report, series
from repnas_mm.search import Genotype

from ..lab import Lab
from ..paper import TABLE3
from ..random_search import DRAWS, draw_and_choose, drawn_network
from ..scales import Scale
from ..shared_trainings import HAND_MADE, accuracy, branches_of, cpu_seconds, from_scratch, network, search
from ..tradeoff import plot_tradeoff

#: C of the searches: what ACB and DBB have, and a tight one, where it matters most which branches are kept
BUDGETS = (20, 39, 52)


def make(lab: Lab, scale: Scale, seeds: Sequence[int]) -> Report:
    """Train every row with every seed."""
    nets = scale.ablation
    best = {c: draw_and_choose(lab, scale, nets, c, scale.short_epochs) for c in BUDGETS}
    rows = {
        (method, branches_of(scale, method)): [network(nets.format(method), s) for s in seeds] for method in HAND_MADE
    }
    for c in BUDGETS:
        rows['random', c] = [drawn_network(nets, c, best[c], s) for s in seeds]
        rows['odbb', c] = [search(nets, c, s) for s in seeds]
    results = lab.run(training for trainings in rows.values() for training in trainings)
    for c in BUDGETS:
        found = [Genotype.load(results[training].folder / 'genotype.json') for training in rows['odbb', c]]
        rows['odbb, from scratch', c] = [
            from_scratch(nets, genotype, seed, f'odbb-c{c}') for genotype, seed in zip(found, seeds)
        ]
    results |= lab.run(training for c in BUDGETS for training in rows['odbb, from scratch', c])
    groups = {row: [results[t] for t in trainings] for row, trainings in rows.items()}
    means = {row: accuracy(group) for row, group in groups.items()}
    base = means['plain', 13]
    return Report(
        'table3',
        f'Table 3: blocks of VGG-16, {scale.name}',
        [
            {
                'block': method,
                'branches': c,
                'seeds': len(seeds),
                'top-1 (%)': mean,
                'improvement (%)': round(mean.mean - base.mean, 2),
                'CPU seconds': cpu_seconds(groups[method, c]),
                'paper, CIFAR-10: top-1 (%)': TABLE3.get(method),
                'paper: improvement (%)': round(TABLE3[method] - TABLE3['plain'], 2) if method in TABLE3 else None,
            }
            for (method, c), mean in means.items()
        ],
        {'': draw(means)},
        notes=[
            f'`random` is the best of {DRAWS} genotypes drawn under C, each trained for {scale.short_epochs} '
            f'epoch{"s" * (scale.short_epochs > 1)} on {scale.trained_on:,} training images and chosen on '
            f'{scale.held_out:,} others; the best is trained in full.',
            '`odbb` is the one training that searches and trains. `odbb, from scratch` trains the genotype that it '
            'found anew, on the same schedule: as `random` does with its own.',
            'CPU seconds are those of one training on one core, without the draws of `random`.',
            'The paper gives no C, and no row for RepVGG.',
        ],
    )


def draw(means: Mapping[tuple[str, int], Mean]) -> Figure:
    """(method, branches) -> top-1, a point for a hand-made block and a curve over C for what has a budget."""
    points = series(means)
    made = {method: points.pop(method) for method in HAND_MADE}
    return plot_tradeoff(points, made, 'branches', 'top-1 (%)')
