"""Table 4: ODBB against RepVGG, arch by arch."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from mmpretrain import get_model
from torch import nn

from measuring.reports import Mean, Report

from ..lab import Lab
from ..paper import TABLE4
from ..scales import ARCHS, Scale
from ..shared_trainings import accuracy, arch_network, cpu_seconds, repvgg_branches
from ..tradeoff import plot_tradeoff
from ..training import Result

#: Method -> what figures call it
LABELS = {'odbb': 'ODBB', 'repvgg': 'RepVGG'}


def trained(lab: Lab, scale: Scale, seeds: Sequence[int]) -> dict[tuple[str, str], list[Result]]:
    """(method, arch) -> results of all seeds, for ``repvgg`` and ``odbb``."""
    trainings = {
        (method, arch): [arch_network(scale, method, arch, seed) for seed in seeds]
        for arch in reversed(ARCHS)  # the longest first, so that in the end no process is left with one of them
        for method in ('odbb', 'repvgg')
    }
    results = lab.run(t for group in trainings.values() for t in group)
    return {
        (method, arch): [results[t] for t in trainings[method, arch]] for arch in ARCHS for method in ('repvgg', 'odbb')
    }


def make(lab: Lab, scale: Scale, seeds: Sequence[int]) -> Report:
    """Train RepVGG and ODBB of every arch with as many branches."""
    groups = trained(lab, scale, seeds)
    means = {key: accuracy(group) for key, group in groups.items()}
    seconds = {key: cpu_seconds(group) for key, group in groups.items()}
    with torch.device('meta'):  # counted only
        networks = {arch: fused_network(lab, scale, arch) for arch in ARCHS}
    parameters = {arch: sum(p.numel() for p in network.parameters()) / 1e6 for arch, network in networks.items()}
    rows = []
    for arch in ARCHS:
        paper_parameters, branches, repvgg, odbb = TABLE4[arch]
        rows.append(
            {
                'arch': arch,
                'parameters (M)': parameters[arch],
                'branches': branches if scale.name == 'imagenet' else repvgg_branches(arch),
                'RepVGG (%)': means['repvgg', arch],
                'ODBB (%)': means['odbb', arch],
                'gain (%)': means['odbb', arch].mean - means['repvgg', arch].mean,
                'RepVGG: CPU seconds': seconds['repvgg', arch],
                'ODBB: CPU seconds': seconds['odbb', arch],
                'paper: parameters (M)': paper_parameters,
                'paper, ImageNet: RepVGG (%)': repvgg,
                'paper: ODBB (%)': odbb,
                'paper: gain (%)': round(odbb - repvgg, 2),
            }
        )
    return Report(
        'table4',
        f'Table 4: ODBB against RepVGG, {scale.name}',
        rows,
        {'': draw(means, parameters)},
        notes=[
            'Parameters are those of the fused network, which is the same for both. The 14.33 M of B1 in the paper are '
            "those of RepVGG's B0."
        ],
    )


def fused_network(lab: Lab, scale: Scale, arch: str) -> nn.Module:
    """The classifier that both methods fuse to, untrained."""
    return get_model(arch_network(scale, 'odbb', arch, 0).load_config(lab.configs), backbone=dict(deploy=True))


def draw(means: Mapping[tuple[str, str], Mean], parameters: Mapping[str, float]) -> Figure:
    """(method, arch) -> top-1, against arch -> millions of parameters."""
    curves = {
        label: [(parameters[arch], means[method, arch].mean, means[method, arch].error) for arch in ARCHS]
        for method, label in LABELS.items()
    }
    return plot_tradeoff(curves, {}, 'parameters of the fused network (M)', 'top-1 (%)', logarithmic=True)
