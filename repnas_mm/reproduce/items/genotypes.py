"""Figures 6 to 11: the genotypes that the searches of Table 4 find."""

from collections.abc import Sequence

from ...search import Genotype
from ...visualization import draw_genotype
from ..lab import Lab
from ..networks import arch_network
from ..presets import ARCHS, Preset
from ..report import Report


def make(lab: Lab, preset: Preset, seeds: Sequence[int]) -> Report:
    """Search every arch, with the first seed."""
    trainings = {arch: arch_network(preset, 'odbb', arch, seeds[0]) for arch in ARCHS}
    results = lab.run(trainings.values())
    genotypes = {a: Genotype.load(results[t].folder / 'genotype.json') for a, t in trainings.items()}
    rows = [
        {'arch': arch, 'block': block, 'branches': ' '.join(branches)}
        for arch, genotype in genotypes.items()
        for block, branches in genotype.items()
    ]
    return Report(
        'figures6-11',
        f'Figures 6 to 11: branches that the searches keep, {preset.name}',
        rows,
        {f'-{arch}': draw_genotype(genotype, f'ODBB-{arch}') for arch, genotype in genotypes.items()},
    )
