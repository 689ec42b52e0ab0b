"""Archs of plain backbones: the RepVGG family (paper, Table 6), VGG-16 in its CIFAR form, and a user's own."""

from collections.abc import Mapping, Sequence

from ...checks import check_counts, check_flags, is_count, is_positive, quote

# RepVGG numbers its layers from 1 after the stem; those with an even number are grouped.
_EVERY_SECOND = range(2, 27, 2)


def _repvgg(num_blocks: Sequence[int], width_factor: Sequence[float], groups: int = 1) -> dict:
    group_layer_map = {layer: groups for layer in _EVERY_SECOND} if groups > 1 else None
    return dict(num_blocks=num_blocks, width_factor=width_factor, group_layer_map=group_layer_map)


_A, _B = [2, 4, 14, 1], [4, 6, 16, 1]

#: Name -> arch
ARCHS = {
    'A0': _repvgg(_A, [0.75, 0.75, 0.75, 2.5]),
    'A1': _repvgg(_A, [1, 1, 1, 2.5]),
    'A2': _repvgg(_A, [1.5, 1.5, 1.5, 2.75]),
    'B0': _repvgg(_B, [1, 1, 1, 2.5]),
    'B1': _repvgg(_B, [2, 2, 2, 4]),
    'B1g2': _repvgg(_B, [2, 2, 2, 4], 2),
    'B1g4': _repvgg(_B, [2, 2, 2, 4], 4),
    'B2': _repvgg(_B, [2.5, 2.5, 2.5, 5]),
    'B2g2': _repvgg(_B, [2.5, 2.5, 2.5, 5], 2),
    'B2g4': _repvgg(_B, [2.5, 2.5, 2.5, 5], 4),
    'B3': _repvgg(_B, [3, 3, 3, 5]),
    'B3g2': _repvgg(_B, [3, 3, 3, 5], 2),
    'B3g4': _repvgg(_B, [3, 3, 3, 5], 4),
    'yolox-pai-small': dict(num_blocks=[3, 5, 7, 3], width_factor=[1, 1, 1, 1], stem_channels=32),
    'VGG16': dict(num_blocks=[2, 2, 3, 3, 3], width_factor=[1, 1, 1, 1, 0.5], pool=True),
}

#: Keys that an arch may have
ARCH_KEYS = {'num_blocks', 'width_factor', 'group_layer_map', 'stem_channels', 'strides', 'pool', 'se_cfg'}


def check_arch(arch: str | dict | None, known: Mapping[str, dict], **per_stage) -> dict:
    """Complete an arch.

    Args:
        arch: Its name or its dict.
        known: Name -> arch.
        per_stage: Entries that take the place of the arch's own where they are not None.

    Raises:
        ValueError, TypeError: if it is no arch; the sentence names the entry.
    """
    if isinstance(arch, str):
        if arch not in known:
            raise ValueError(f'Unknown arch {quote(arch)}; known are {", ".join(known)}, or pass a dict.')
        arch = known[arch]
    if not isinstance(arch, Mapping):
        raise TypeError(f'arch of ODBBBackbone must be a name or a dict, got {quote(arch)}; or give base.')
    for key in ('num_blocks', 'width_factor'):
        if key not in arch:
            raise ValueError(f"arch={quote(arch)} has no '{key}'.")
    if unknown := [key for key in arch if key not in ARCH_KEYS]:
        names = ', '.join(sorted(ARCH_KEYS))
        raise ValueError(f'arch has unknown key {quote(unknown[0])}; known are {names}.')
    if arch.get('se_cfg') is not None:
        raise ValueError(
            f'se_cfg of arch must be None, got {quote(arch["se_cfg"])}: a block has no squeeze-and-excitation.'
        )
    arch = dict(arch) | {key: values for key, values in per_stage.items() if values is not None}
    per_stage = {key: arch.get(key) for key in ('num_blocks', 'width_factor', 'strides', 'dilations')}
    lists = {key: values for key, values in per_stage.items() if values is not None}
    for key, values in lists.items():
        fits, kind = (is_positive, 'numbers') if key == 'width_factor' else (is_count, 'integers')
        if isinstance(values, str) or not isinstance(values, Sequence) or not values or not all(map(fits, values)):
            raise ValueError(f'{key} must be a list of positive {kind}, got {quote(values)}.')
    if len({len(values) for values in lists.values()}) > 1:
        raise ValueError(
            f'num_blocks, width_factor, strides and dilations must have one length, one entry a stage, got '
            f'{quote(lists)}.'
        )
    check_counts('arch', stem_channels=arch.get('stem_channels', 64))
    check_flags('arch', pool=arch.get('pool', False))
    groups = {} if arch.get('group_layer_map') is None else arch['group_layer_map']
    if not isinstance(groups, Mapping) or not all(map(is_count, groups.values())):
        raise ValueError(f'group_layer_map of arch must map layer numbers to groups, got {quote(groups)}.')
    layers = range(1, sum(arch['num_blocks']) + 1)
    if wrong := [layer for layer in groups if layer not in layers]:
        raise ValueError(f'group_layer_map has layer {quote(wrong[0])}; layers of this arch are 1 to {layers[-1]}.')
    return arch


def block_shapes(arch: dict, in_channels: int, base_channels: int) -> dict[str, dict]:
    """Block name -> its in_channels, out_channels, stride, dilation and groups, in forward order."""
    widths = [int(base_channels * 2**i * factor) for i, factor in enumerate(arch['width_factor'])]
    if min(widths) < 1:
        raise ValueError(
            f'width_factor {quote(arch["width_factor"])} leaves a stage without channels at '
            f'base_channels={base_channels}; raise one of them.'
        )
    strides = arch.get('strides') or [1 if arch.get('pool') else 2] * len(widths)
    dilations = arch.get('dilations') or [1] * len(widths)
    groups = arch.get('group_layer_map') or {}
    layout, channels = {}, in_channels
    if not arch.get('pool'):
        channels = min(arch.get('stem_channels', 64), widths[0])
        layout['stem'] = dict(in_channels=in_channels, out_channels=channels, stride=2, groups=1)
    layer = 0
    stages = zip(arch['num_blocks'], widths, strides, dilations)
    for i, (num_blocks, width, stride, dilation) in enumerate(stages):
        for j in range(num_blocks):
            layer += 1
            layout[f'stage_{i + 1}.{j}'] = dict(
                in_channels=channels,
                out_channels=width,
                stride=1 if j else stride,
                dilation=dilation,
                groups=groups.get(layer, 1),
            )
            channels = width
    return layout
