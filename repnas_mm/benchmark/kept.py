"""Bytes that a forward keeps for backward: counted, so without noise."""

from collections import defaultdict

from torch import nn

from ..reproduce.networks import repvgg_branches
from ..search.memory import kept_bytes
from .draws import draws
from .naive import naive
from .networks import Setting, searched, stock
from .table import line


def measure(setting: Setting, times: int) -> list[dict]:
    """Ratios to stock RepVGG and to the naive block, over so many draws of the gates and the authors' genotype."""
    base, backbone = stock(setting), searched(setting)
    rival, num_branches = naive(backbone), repvgg_branches(setting.arch)
    base_bytes = backbone_bytes(base, setting)
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    for gates in draws(backbone, rival, num_branches, setting.arch, times, 1):
        ours = backbone_bytes(backbone, setting)
        ratios['bytes kept ÷ stock RepVGG', gates].append(ours / base_bytes)
        ratios['bytes kept ÷ naive', gates].append(ours / backbone_bytes(rival, setting))
    return [line(what, setting.arch, gates, values) for (what, gates), values in ratios.items()]


def backbone_bytes(backbone: nn.Module, setting: Setting) -> int:
    """Of one training forward of a batch; parameters and images are not counted."""
    backbone.to(setting.device, memory_format=setting.memory_format)
    backbone.train()
    images = setting.images()
    with setting.autocast():
        return kept_bytes(lambda: backbone(images)[-1], (images, *backbone.parameters(), *backbone.buffers()))
