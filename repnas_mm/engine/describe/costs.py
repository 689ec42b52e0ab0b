"""Table of the cost of a step, with hand-made blocks and at the start of a search."""

import math
from collections.abc import Sequence
from copy import deepcopy

from mmengine.config import Config
from torch import nn

from ...checks import error_text
from ...models.survey import preset_masks
from ...search.block import find_blocks, is_convolution_block
from ...search.genotype import PRESETS
from ..step_cost import image_shape, on_meta, step_cost
from ..strategies import CANDIDATES
from .config_problems import hook_settings
from .table import table


def costs(cfg: Config, model: nn.Module) -> str:
    """A table of the hand-made blocks and of the search's start: branches, and the cost of a step."""
    masks: dict[str, list[list[bool]]] = {preset: [] for preset in PRESETS}
    start = hook_settings(cfg, 'RepNASHook') or {}
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
        active = [step_cost(_with_branches(meta, of_blocks), image) for of_blocks in masks.values()]
    except Exception as e:  # foreign code was not made for torch's meta device
        return f'{table([("branches", "num_branches"), *rows])}\n\nA step is not counted: {error_text(e)}.'
    for row, cost in zip(rows, active):
        row += [f'× {cost.multiply_adds / stock.multiply_adds:.2f}', f'× {cost.saved / stock.saved:.2f}']
    titles = 'branches', 'num_branches', 'multiply-adds', 'activations'
    amounts = '-', f'{_short(stock.multiply_adds / 1e6)} M', f'{_short(stock.saved / 2**20)} MiB'
    note = (
        f'For one image of {image[1]} × {image[2]} pixels, without losses and RoI heads: multiply-adds of the forward, '
        f'activations kept for backward; '
        f'parameters: {stock.parameters / 1e6:.2f} M, {active[0].parameters / 1e6:.2f} M while training.'
    )
    return f'{table([titles, ("none: the fused network", *amounts), *rows])}\n{note}'


def _short(number: float) -> str:
    """Write all digits in front of the point, and two digits at least."""
    return f'{number:,.0f}' if number >= 10 else f'{number:.2g}'


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
    """Copy ``model`` with these branches of its searched blocks active and no others."""
    model = deepcopy(model)
    for block, mask in zip((block for block in find_blocks(model).values() if block.searchable), masks, strict=True):
        block.set_active(mask)
    return model
