"""Table of the blocks in each part of a model, and the lines of a config by which there would be more."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from mmengine.config import Config

from ...models.survey import BLOCKS, ELIGIBLE, FROZEN, Convolution, counts
from .table import table
from .ways import Keys, Reached, best_way, reach


def parts(cfg: Config, found: list[Convolution]) -> Iterator[str]:
    """A table of the model's parts, and what else would be blocks."""
    names = list(dict.fromkeys(c.part for c in found))
    now, frozen, left = (Counter(c.part for c in found if c.kind in kinds) for kinds in (BLOCKS, {FROZEN}, {ELIGIBLE}))
    ways = reach(cfg, left, now) if left else {}
    columns = [('part of the model', *names), ('blocks', *(now[part] for part in names))]
    if frozen:
        columns.append(('frozen', *(frozen[part] for part in names)))
    for way, reached in ways.items():
        columns.append((f'by {way}', *(reached[part].blocks if part in left else now[part] for part in names)))
    plain = [[c.kind for c in found if c.part == part and c.kind not in BLOCKS | {ELIGIBLE}] for part in names]
    if any(plain):
        columns.append(('plain for good', *map(counts, plain)))
    yield table([*zip(*columns)])
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
