"""Table 4: ODBB against RepVGG, arch by arch."""

from collections.abc import Sequence

from ..lab import Lab
from ..networks import accuracy, arch_network, repvgg_branches
from ..paper import TABLE4
from ..presets import ARCHS, Preset
from ..report import Mean, Report


def accuracies(lab: Lab, preset: Preset, seeds: Sequence[int]) -> dict[tuple[str, str], Mean]:
    """(method, arch) -> top-1, for ``repvgg`` and ``odbb``."""
    trainings = {
        (method, arch): [arch_network(preset, method, arch, seed) for seed in seeds]
        for arch in reversed(ARCHS)  # the longest first, so that in the end no process is left with one of them
        for method in ('odbb', 'repvgg')
    }
    results = lab.run(t for group in trainings.values() for t in group)
    return {key: accuracy(results[t] for t in group) for key, group in trainings.items()}


def make(lab: Lab, preset: Preset, seeds: Sequence[int]) -> Report:
    """Train RepVGG and ODBB of every arch with as many branches."""
    means = accuracies(lab, preset, seeds)
    rows = []
    for arch in ARCHS:
        _, branches, repvgg, odbb = TABLE4[arch]
        rows.append(
            {
                'arch': arch,
                'branches': branches if preset.name == 'imagenet' else repvgg_branches(arch),
                'RepVGG (%)': means['repvgg', arch],
                'ODBB (%)': means['odbb', arch],
                'gain (%)': means['odbb', arch].mean - means['repvgg', arch].mean,
                'paper, ImageNet: RepVGG (%)': repvgg,
                'paper: ODBB (%)': odbb,
                'paper: gain (%)': round(odbb - repvgg, 2),
            }
        )
    return Report('table4', f'Table 4: ODBB against RepVGG, {preset.name}', rows)
