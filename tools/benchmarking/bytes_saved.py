"""Bytes that a forward saves for backward: counted, so without noise."""

from collections import defaultdict

from torch import nn

from repnas_mm.search.memory import bytes_saved_for_backward

from .compared import repvgg_branches, searched, stock
from .draws import draws, searches
from .naive import naive
from .settings import Setting
from .targets import line


def measure(setting: Setting, times: int) -> list[dict]:
    """Ratios to stock RepVGG and to the naive block, over so many draws of the gates and the authors' genotype."""
    base, backbone = stock(setting), searched(setting)
    rival, num_branches = naive(backbone), repvgg_branches(backbone)
    base_bytes = backbone_bytes(base, setting)
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    for gates in draws(*searches(backbone, rival, num_branches), setting.arch, times, 1):
        ours = backbone_bytes(backbone, setting)
        ratios['bytes saved for backward ÷ stock RepVGG', gates].append(ours / base_bytes)
        ratios['bytes saved for backward ÷ naive', gates].append(ours / backbone_bytes(rival, setting))
    return [line(what, setting, gates, values) for (what, gates), values in ratios.items()]


def backbone_bytes(backbone: nn.Module, setting: Setting) -> int:
    """Bytes that one training forward of a batch saves; parameters and images are not counted."""
    backbone.to(setting.device, memory_format=setting.memory_format)
    backbone.train()
    images = setting.images()
    with setting.autocast():
        return bytes_saved_for_backward(
            lambda: backbone(images)[-1], (images, *backbone.parameters(), *backbone.buffers())
        )
