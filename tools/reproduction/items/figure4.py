"""Figure 4: accuracy against the number of branches, hand-made blocks as points and C swept."""

from collections.abc import Sequence

from measuring.reports import Report, series

from ..lab import Lab
from ..scales import Scale
from ..shared_trainings import HAND_MADE, accuracy, branches_of, network, search
from ..tradeoff import plot_tradeoff


def make(lab: Lab, scale: Scale, seeds: Sequence[int]) -> Report:
    """Train the hand-made networks and a search for every C."""
    nets = scale.ablation
    trainings = {(m, branches_of(scale, m)): [network(nets.format(m), s) for s in seeds] for m in HAND_MADE}
    trainings |= {('odbb', c): [search(nets, c, seed) for seed in seeds] for c in scale.sweep}
    results = lab.run(t for group in trainings.values() for t in group)
    means = {key: accuracy(results[t] for t in group) for key, group in trainings.items()}
    points = series(means)
    curve = points.pop('odbb')
    return Report(
        'figure4',
        f'Figure 4: accuracy against number of branches, {scale.name}',
        [{'block': m, 'branches': c, 'seeds': len(seeds), 'top-1 (%)': mean} for (m, c), mean in means.items()],
        {'': plot_tradeoff({'odbb': curve}, points, 'branches', 'top-1 (%)')},
        notes=[
            'Bars are standard errors over seeds. The paper has RepVGG-A0 on ImageNet, and its values as a plot only: '
            'from 50 branches on the curve is above RepVGG (66 branches), ACB (66) and DBB (88), from 75 on it is flat.'
        ],
    )
