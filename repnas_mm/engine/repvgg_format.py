"""A fused ODBB network as mmpretrain's own RepVGG: the two are the same layers under other names."""

from collections.abc import Mapping
from copy import deepcopy

from mmengine.config import Config
from mmpretrain.models.backbones import RepVGG
from torch import Tensor

from .form_configs import type_name

_COMMON = (
    'arch',
    'in_channels',
    'base_channels',
    'out_indices',
    'strides',
    'dilations',
    'frozen_stages',
    'norm_eval',
    'norm_cfg',
    'add_ppf',
    'init_cfg',
)


def to_repvgg(state_dict: Mapping[str, Tensor], cfg: Config) -> tuple[dict[str, Tensor], Config]:
    """Convert state dict and config of a fused ODBBBackbone to stock RepVGG's key names and type.

    Raises:
        ValueError: where RepVGG has no counterpart (VGG16, kernels other than 3×3, other activations).
    """
    cfg = deepcopy(cfg)
    backbone = cfg.model.get('backbone', {})
    if type_name(backbone) != 'ODBBBackbone':
        raise ValueError("Stock RepVGG keys need a model whose 'backbone' is an ODBBBackbone.")
    if not isinstance(backbone.arch, str) or backbone.arch not in RepVGG.arch_settings:
        known = ', '.join(RepVGG.arch_settings)
        raise ValueError(f'arch={backbone.arch!r} has no counterpart in stock RepVGG, which has {known}.')
    if backbone.get('kernel_size', 3) != 3:
        raise ValueError(f'kernel_size={backbone.kernel_size} has no counterpart in stock RepVGG, which is 3x3.')
    if type_name(backbone.get('act_cfg', dict(type='ReLU'))) != 'ReLU':
        raise ValueError(f'act_cfg={dict(backbone.act_cfg)} has no counterpart in stock RepVGG, which uses ReLU.')
    kept = {key: backbone[key] for key in _COMMON if backbone.get(key) is not None}
    if 'out_indices' in kept:  # stock RepVGG does not count from the end
        kept['out_indices'] = [i % len(RepVGG.arch_settings[backbone.arch]['num_blocks']) for i in kept['out_indices']]
    cfg.model.backbone = dict(kept, type='mmpretrain.RepVGG', deploy=True)
    return {key.replace('.reparam.', '.branch_reparam.'): value for key, value in state_dict.items()}, cfg
