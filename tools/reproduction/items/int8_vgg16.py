"""Table 3's networks in 8 bits: VGG-16, searched with as many branches as ACB has, beside hand-made blocks."""

from collections.abc import Sequence

from measuring.reports import Report

from ..lab import Lab
from ..scales import Scale
from ..shared_trainings import HAND_MADE, branches_of, network, search
from .int8 import quantized


def make(lab: Lab, scale: Scale, seeds: Sequence[int]) -> Report:
    """Quantize what Table 3 trains."""
    trainings = {method: [network(scale.ablation.format(method), s) for s in seeds] for method in HAND_MADE}
    trainings['odbb'] = [search(scale.ablation, branches_of(scale, 'acb'), s) for s in seeds]
    return quantized(lab, trainings, 'int8-vgg16', f'VGG-16 in 8 bits, {scale.name}')
