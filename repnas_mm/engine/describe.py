"""Description of what a config would search, before it trains: ``python -m repnas_mm describe CONFIG``."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config
from torch import nn

from ..checks import error_text
from ..models.survey import BLOCKS, ELIGIBLE, FROZEN, Convolution, counts, preset_branches, preset_masks, survey
from ..search.block import Block, find_blocks, is_convolution_block
from ..search.genotype import PRESETS
from .form_configs import type_name
from .hooks import RepNASHook
from .step_cost import image_shape, on_meta, step_cost
from .strategies import CANDIDATES
from .ways import Keys, Reached, best_way, build, reach, read_config, typed_dicts


def describe(name: str, options: dict | None = None, every: bool = False) -> str:
    """Say which convolutions of a config's model are searched, at what cost, and what the config lacks.

    Args:
        name: Of the config: a path, or ``mmdet::...``.
        options: Settings that override the config's.
        every: Whether to list the convolutions one by one.

    Raises:
        ValueError: if the config cannot be read, or no convolution of its model can be a block.
    """
    cfg = read_config(name)
    cfg.merge_from_dict(options or {})
    torch.manual_seed(0)
    model = build(cfg)
    found = survey(model)
    if not any(c.kind in BLOCKS or c.kind == ELIGIBLE for c in found):
        raise ValueError(
            f"The {type(model).__name__} of config '{name}' has no convolution that can be a block (2-D, K x K, K odd, "
            f'at least 3), only: {counts(c.kind for c in found) or "none at all"}.'
        )
    blocks = find_blocks(model)
    searched = {name: block for name, block in blocks.items() if block.searchable}
    eligible = sum(c.kind == ELIGIBLE for c in found)
    sections = [
        f'{Path(name).stem}: {len(blocks)} of {len(found)} convolutions are blocks, '
        + (f'{len(searched)} of them searched' if blocks else f'{eligible} could be'),
        *_parts(cfg, found),
        *([_table([('convolution', 'is'), *found])] if every else []),
        *([_costs(cfg, model)] if searched else []),
        *_settings(cfg, model, len(blocks), searched),
    ]
    return '\n\n'.join(sections)


def _table(rows: Sequence[Sequence[object]]) -> str:
    """Rows of one length, the first of them titles, in columns; numbers to the right."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows)]
    right = [all(re.fullmatch(r'(× )?[\d.,]+( M| MiB)?|-', str(cell)) for cell in column[1:]) for column in zip(*rows)]
    lines = [
        '  '.join(str(cell).rjust(w) if r else str(cell).ljust(w) for cell, w, r in zip(row, widths, right)).rstrip()
        for row in rows
    ]
    return '\n'.join(lines)


# ---- which convolutions, and how to have more ----


def _parts(cfg: Config, found: list[Convolution]) -> Iterator[str]:
    """A table of the model's parts, and what else would be blocks."""
    parts = list(dict.fromkeys(c.part for c in found))
    now, frozen, left = (Counter(c.part for c in found if c.kind in kinds) for kinds in (BLOCKS, {FROZEN}, {ELIGIBLE}))
    ways = reach(cfg, left, now) if left else {}
    columns = [('part of the model', *parts), ('blocks', *(now[part] for part in parts))]
    if frozen:
        columns.append(('frozen', *(frozen[part] for part in parts)))
    for way, reached in ways.items():
        columns.append((f'by {way}', *(reached[part].blocks if part in left else now[part] for part in parts)))
    plain = [[c.kind for c in found if c.part == part and c.kind not in BLOCKS | {ELIGIBLE}] for part in parts]
    if any(plain):
        columns.append(('plain for good', *map(counts, plain)))
    yield _table([*zip(*columns)])
    if left:
        yield '\n'.join(_advice(cfg, now, left, ways))


def _advice(cfg: Config, now: Counter, left: Counter, ways: Mapping[str, Mapping[str, Reached]]) -> Iterator[str]:
    best = {part: best_way(ways, part) for part in left}
    reached = {part: ways[way][part] for part, way in best.items() if ways[way][part].blocks > now[part]}
    if reached:
        yield (
            'More are blocks by these lines in model=dict(...):'
            if any(now.values())
            else 'By these lines in model=dict(...) are blocks:'
        )
    lines = {part: _setting(cfg.model[part], best[part], layers, (part,)) for part, (_, layers) in reached.items()}
    for part, line in lines.items():
        blocks = reached[part].blocks
        yield f'  {part}={line},  # {blocks} {"block" if blocks == 1 else "blocks"}'
    if any('_base_' in line for line in lines.values()):
        yield '  (_base_ is this config, in one that inherits it)'
    for part in left.keys() - reached.keys():
        yield f'  {part}: {left[part]} could be blocks, but no setting reaches them'
    if not any(now.values()) and 'backbone' in cfg.model:
        yield 'Or another backbone:'
        yield "  backbone=dict(_delete_=True, type='mmpretrain.ODBBBackbone', arch='A0'),  # 22 blocks"


def _setting(given, way: str, layers: Collection[Keys], keys: Keys) -> str:
    """Write what a config that inherits this one has at ``keys`` of its model, to go a way with some layers.

    MMEngine merges a dict into a dict, but replaces None, lists and what is in them.
    """
    there = '_base_.model' + ''.join(f'[{key}]' if isinstance(key, int) else f'.{key}' for key in keys)
    inside = [layer for layer in layers if layer[: len(keys)] == keys]
    in_list = isinstance(keys[-1], int)
    if not inside:
        return there
    if keys in layers and way == 'base':
        return f"dict({'' if in_list else '_delete_=True, '}type='mmpretrain.ODBBBackbone', base={there})"
    if isinstance(given, list | tuple):
        return f'[{", ".join(_setting(item, way, layers, (*keys, i)) for i, item in enumerate(given))}]'
    texts = [there] if in_list else []
    if keys in layers:
        delete = '_delete_=True, ' if not in_list and given.get('conv_cfg', '') is None else ''
        texts.append(f"conv_cfg=dict({delete}type='ODBBConv2d')")
    names = dict.fromkeys(layer[len(keys)] for layer in inside if layer != keys)
    texts += [f'{name}={_setting(given[name], way, layers, (*keys, name))}' for name in names]
    return f'dict({", ".join(texts)})'


# ---- what a step costs ----


def _costs(cfg: Config, model: nn.Module) -> str:
    """A table of the hand-made blocks and of the search's start: branches, and the cost of a step."""
    masks: dict[str, list[list[bool]]] = {preset: [] for preset in PRESETS}
    start = _hook(cfg, 'RepNASHook') or {}
    for block in (block for block in find_blocks(model).values() if block.searchable):
        for preset, mask in preset_masks(block.candidates).items():
            masks[preset].append(mask)
        if start.get('strategy', 'shrink') == 'shrink':
            kinds = start.get('candidates') or CANDIDATES
            masks.setdefault('until the cut', []).append([name in kinds for name in block.candidates])
    rows = [[name, sum(map(sum, of_blocks))] for name, of_blocks in masks.items()]
    try:
        image = _image(cfg)
        meta = on_meta(model)
        stock = step_cost(_plain(meta), image)
        costs = [step_cost(_with_branches(meta, of_blocks), image) for of_blocks in masks.values()]
    except Exception as e:  # foreign code was not made for torch's meta device
        return f'{_table([("branches", "num_branches"), *rows])}\n\nA step is not counted: {error_text(e)}.'
    for row, cost in zip(rows, costs):
        row += [f'× {cost.multiply_adds / stock.multiply_adds:.2f}', f'× {cost.saved / stock.saved:.2f}']
    titles = 'branches', 'num_branches', 'multiply-adds', 'activations'
    amounts = '-', f'{stock.multiply_adds / 1e6:,.0f} M', f'{stock.saved / 2**20:,.1f} MiB'
    note = (
        f'For one image of {image[1]} × {image[2]} pixels, without losses and RoI heads: multiply-adds of the forward, '
        f'activations kept for backward; '
        f'parameters: {stock.parameters / 1e6:.2f} M, {costs[0].parameters / 1e6:.2f} M while training.'
    )
    return f'{_table([titles, ("none: the fused network", *amounts), *rows])}\n{note}'


def _image(cfg: Config) -> tuple[int, int, int]:
    """(C, H, W) of an image of the training pipeline, as the data preprocessor pads it."""
    _, channels, *sides = image_shape(cfg)
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    divisor = preprocessor.get('pad_size_divisor', 1)
    height, width = (math.ceil(side / divisor) * divisor for side in sides)
    return channels, height, width


def _plain(model: nn.Module) -> nn.Module:
    """Copy ``model`` with an ordinary convolution in the place of every block."""
    model = deepcopy(model)
    for block in find_blocks(model).values():
        if is_convolution_block(block):
            block.switch_to_plain()
        else:
            block.switch_to_deploy()
    return model


def _with_branches(model: nn.Module, masks: Sequence[Sequence[bool]]) -> nn.Module:
    """``model`` with these branches of its searched blocks and no others, in place, ready for a search to choose."""
    model = deepcopy(model)
    for block, mask in zip((block for block in find_blocks(model).values() if block.searchable), masks, strict=True):
        block.set_active(mask)
    return model


# ---- what the config lacks ----


def _hook(cfg: Config, name: str) -> dict | None:
    """Config of a hook of ours, without its type, whether that is a class or a name with a scope or without."""
    for hook in cfg.get('custom_hooks') or ():
        if type_name(hook) == name:
            return {key: value for key, value in hook.items() if key != 'type'}
    return None


def _settings(cfg: Config, model: nn.Module, blocks: int, searched: Mapping[str, Block]) -> Iterator[str]:
    """Say what is missing in the config and what is wrong with it, a paragraph each."""
    for title, lines in (
        ('The config lacks', _missing(cfg, blocks, searched)),
        ('The config does not fit', _contradictions(cfg, model, searched)),
    ):
        if indented := [f'  {line}' for line in lines]:
            yield '\n'.join([title, *indented])


def _missing(cfg: Config, blocks: int, searched: Mapping[str, Block]) -> Iterator[str]:
    imports = (cfg.get('custom_imports') or {}).get('imports', ())
    # classes, as in a pure-Python config, are imported by being there
    classes = (getattr(node['type'], '__module__', '') for node in typed_dicts([cfg.model, cfg.get('custom_hooks')]))
    names = *([imports] if isinstance(imports, str) else imports), *classes
    if not any(name.partition('.')[0] == 'repnas_mm' for name in names):
        yield "custom_imports = dict(imports=['repnas_mm'], allow_failed_imports=False)"
    wanted = {'FuseHook': '', 'ExactResumeHook': '', 'CheckFiniteHook': ''}
    if searched or not blocks:
        number = preset_branches(searched.values())['repvgg'] or '...'
        wanted = {'RepNASHook': f', num_branches={number}', **wanted}
        if not cfg.get('find_unused_parameters'):
            yield 'find_unused_parameters = True  # for several GPUs'
    if lacking := {hook: arguments for hook, arguments in wanted.items() if _hook(cfg, hook) is None}:
        yield 'custom_hooks = ['
        if cfg.get('custom_hooks'):
            yield '    *_base_.custom_hooks,'
        for hook, arguments in lacking.items():
            yield f"    dict(type='{hook}'{arguments}),{'  # RepVGG has about 3 a block' if '...' in arguments else ''}"
        yield ']'


def _contradictions(cfg: Config, model: nn.Module, searched: Mapping[str, Block]) -> Iterator[str]:
    if (settings := _hook(cfg, 'RepNASHook')) is not None:
        try:
            RepNASHook(**settings).strategy.new_search(searched)
        except (TypeError, ValueError) as e:
            yield f'RepNASHook: {error_text(e)}.'
    widths = getattr(getattr(model, 'backbone', None), 'out_channels', None)
    for name in ('neck', 'head', 'bbox_head', 'decode_head'):
        reader = cfg.model.get(name)
        if isinstance(reader, dict) and isinstance(widths, list) and 'in_channels' in reader:
            given = reader['in_channels']
            if given != (widths if isinstance(given, list | tuple) else widths[-1]):
                yield f'{name}: in_channels={given}, and the backbone has out_channels={widths}.'
            break
