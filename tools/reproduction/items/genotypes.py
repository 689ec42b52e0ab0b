"""Figures 6 to 11: the genotypes that the searches of Table 4 find."""

from collections.abc import Sequence

from measuring.reports import Report
from repnas_mm.search import Genotype
from repnas_mm.visualization import plot_genotype

from ..lab import Lab
from ..scales import ARCHS, Scale
from ..shared_trainings import arch_network


def make(lab: Lab, scale: Scale, seeds: Sequence[int]) -> Report:
    """Search every arch, with the first seed."""
    trainings = {arch: arch_network(scale, 'odbb', arch, seeds[0]) for arch in ARCHS}
    results = lab.run(trainings.values())
    genotypes = {a: Genotype.load(results[t].folder / 'genotype.json') for a, t in trainings.items()}
    rows = [
        {'arch': arch, 'block': block, 'branches': ' '.join(branches)}
        for arch, genotype in genotypes.items()
        for block, branches in genotype.items()
    ]
    return Report(
        'figures6-11',
        f'Figures 6 to 11: branches that the searches keep, {scale.name}',
        rows,
        {f'-{arch}': plot_genotype(genotype, f'ODBB-{arch}') for arch, genotype in genotypes.items()},
    )
