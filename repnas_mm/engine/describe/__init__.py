"""Description of what a config would search, before it trains: ``python -m repnas_mm describe CONFIG``."""

from pathlib import Path

import torch

from ...models.survey import BLOCKS, ELIGIBLE, counts, survey
from ...search.block import find_blocks
from .config_problems import config_problems
from .costs import costs
from .parts import parts
from .table import table
from .ways import build, read_config

__all__ = ['describe']


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
        *parts(cfg, found),
        *([table([('convolution', 'is'), *found])] if every else []),
        *([costs(cfg, model)] if searched else []),
        *config_problems(cfg, model, len(blocks), searched),
    ]
    return '\n\n'.join(sections)
