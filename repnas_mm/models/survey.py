"""The convolutions of a model: which are blocks, which stay plain and why, and a summary of it all."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from ..search.block import find_plain, is_block, names_by_module
from ..search.genotype import PRESETS
from .convert import is_convolution, obstacle

BLOCK, FROZEN, FUSED, ELIGIBLE = 'block', 'frozen block', 'fused block', 'eligible'
BLOCKS = {BLOCK, FROZEN, FUSED}


class Convolution(NamedTuple):
    """One convolution of a model."""

    name: str
    #: One of `BLOCKS`; or `ELIGIBLE`, a convolution that could be one; or why it cannot, in a word or two
    kind: str

    @property
    def part(self) -> str:
        """Name of the part of the model in which it is."""
        return self.name.partition('.')[0]


def survey(model: nn.Module) -> list[Convolution]:
    """List the convolutions of ``model`` in its own order, each block as one; the model stays as it is."""
    names = names_by_module(model)
    blocks: list[nn.Module] = [module for module in names if is_block(module)]
    inner = {module for block in blocks for module in block.modules() if module is not block}
    convolutions = [module for module in names if is_block(module) or (module not in inner and is_convolution(module))]
    own = {module: '' if is_block(module) else obstacle(module) for module in convolutions}
    plain = find_plain(names, [module for module, reason in own.items() if not reason])

    def kind(module: nn.Module) -> str:
        if module in plain:
            return plain[module].kind
        if not is_block(module):
            return own[module] or ELIGIBLE
        if module.deploy:
            return FUSED
        return FROZEN if module.alpha is not None and not module.searchable else BLOCK

    return [Convolution(names[module][0], kind(module)) for module in convolutions]


def preset_masks(candidates: tuple[str, ...]) -> dict[str, list[bool]]:
    """Name of a hand-made block -> its branches, one bool a candidate."""
    return {preset: [name in names for name in candidates] for preset, names in PRESETS.items()}


def preset_branches(blocks: Iterable) -> dict[str, int]:
    """Name of a hand-made block -> number of branches that all of ``blocks`` together have as such ones."""
    masks = [preset_masks(block.candidates) for block in blocks]
    return {preset: sum(sum(of_block[preset]) for of_block in masks) for preset in PRESETS}


def summary(model: nn.Module, blocks: Iterable) -> list[str]:
    """Say in two or three lines what a search over these ``blocks`` of ``model`` reaches."""
    found, blocks = survey(model), list(blocks)
    plain = counts(c.kind for c in found if c.kind not in BLOCKS | {ELIGIBLE})
    others = counts(c.part for c in found if c.kind == ELIGIBLE)
    numbers = ', '.join(f'{name} {number}' for name, number in preset_branches(blocks).items())
    lines = [
        f'{len(blocks)} of {len(found)} convolutions are searched: {counts(c.part for c in found if c.kind == BLOCK)}; '
        f'plain for good: {plain or "none"}.',
        f'They have {sum(len(block.candidates) for block in blocks)} candidate branches; hand-made blocks would have: '
        f'{numbers}.',
    ]
    if others:
        lines.append(f'More could be blocks: {others}; `python -m repnas_mm describe CONFIG` says how.')
    return lines


def counts(words: Iterable[str]) -> str:
    """Count each word, the most frequent one first, in a text such as ``'36 1×1, 1 transposed'``."""
    return ', '.join(f'{number} {word}' for word, number in Counter(words).most_common())
