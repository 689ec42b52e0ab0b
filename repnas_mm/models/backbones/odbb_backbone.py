"""Plain backbones of ODBB blocks: the RepVGG family (paper, Table 6) and VGG-16 in its CIFAR form."""

from collections.abc import Sequence
from copy import deepcopy
from inspect import signature

from mmengine.model import Sequential
from mmengine.registry import MODELS
from mmengine.utils import is_seq_of
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.models.backbones.repvgg import MTSPPF
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...checks import check_counts, check_flags, explain_errors, is_count, quote
from ...registry import register
from ...search.block import find_blocks
from ...search.genotype import resolve_genotype
from ...search.space import candidates, find_candidates
from ..convert import to_odbb
from ..foreign import rename_network
from ..odbb import ODBBlock
from .archs import ARCHS, block_shapes, check_arch


@register('MODELS')
class ODBBBackbone(BaseBackbone):
    """A plain stack of ODBB blocks, whose modules are named as in mmpretrain's RepVGG; or any backbone made of them.

    With ``base``, the result is that backbone itself, of its own class, with every eligible convolution an
    `ODBBConv2d`. That reaches convolutions that no ``conv_cfg`` does: DenseNet's, MobileNet's, SSD's VGG.

    Args:
        arch (str | dict, optional): A0, A1, A2, B0, B1, B2, B3, with g2 or g4 after B1, B2, B3, yolox-pai-small, or
            VGG16; or a dict with

            - **num_blocks** (Sequence[int]): Blocks in each stage.
            - **width_factor** (Sequence[float]): Stage i has ``int(base_channels * 2**i * width_factor[i])`` channels.
            - **group_layer_map** (dict, optional): Layer number (the first after the stem is 1) -> groups.
            - **stem_channels** (int, optional): Upper bound of the stem's channels. Defaults to 64.
            - **strides** (Sequence[int], optional): Default of the argument ``strides``.
            - **pool** (bool, optional): No stem, and a 2×2 max pooling behind every stage, as in VGG. Defaults to
              False.
            - **se_cfg** (None, optional): As in RepVGG's archs; blocks have no squeeze-and-excitation.
        in_channels (int): Channels of the image. Defaults to 3.
        base_channels (int): Defaults to 64.
        kernel_size (int): K of every block. Defaults to 3.
        out_indices (Sequence[int], optional): Stages to return, counted from 0, or from the last one, -1. Defaults to
            None: the last one.
        strides (Sequence[int], optional): Stride of each stage's first block. Defaults to None: as ``arch`` says, else
            2, or 1 with ``pool``.
        dilations (Sequence[int], optional): Dilation of each stage's blocks. Defaults to None: 1.
        frozen_stages (int): Freeze the stem and this many stages; -1 freezes nothing. Frozen blocks leave the search.
            Defaults to -1.
        norm_eval (bool): Keep BNs in eval mode while training. Defaults to False.
        with_cp (bool): Recompute blocks in backward to save memory. Defaults to False.
        norm_cfg (dict): BN or SyncBN. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Defaults to ``dict(type='ReLU', inplace=True)``.
        share_weights (bool, optional): Whether the branches of a block share one kernel. Defaults to None: as the
            genotype says, and False without one.
        genotype (str | dict | Genotype, optional): Build the subnet it describes instead of the search space: a path
            to its JSON, a preset's name, the name of a genotype shipped in ``repnas_mm/genotypes``, a dict or a
            Genotype. Defaults to None.
        deploy (bool): Build the fused network; genotype and share_weights then do not matter. Defaults to False.
        add_ppf (bool): Pool pyramids behind the last stage, as RepVGG does for YOLOX-PAI. Defaults to False.
        conv_cfg (None): As RepVGG's; a block has convolutions of its own.
        base (dict, optional): Config of another backbone, neck or head, instead of ``arch``. Of the other arguments
            only genotype, share_weights, norm_cfg, with_cp and deploy go with it; the rest, init_cfg too, belongs into
            ``base``, where also goes what is no argument of this class, such as a head's ``test_cfg``.
        init_cfg (dict | list[dict], optional): Defaults to None: blocks initialize themselves as RepVGG's do.

    Shapes:
        (N, in_channels, H, W) -> tuple of (N, C_i, H_i, W_i), one for each of ``out_indices``, in the order of stages.

    Attributes:
        out_channels (list[int]): C_i of each output, which is a neck's ``in_channels``.

    A checkpoint has to fit in every block, also for loaders that are not strict, such as
    ``init_cfg=dict(type='Pretrained', checkpoint='subnet.pth', prefix='backbone.')``.

    Example:
        >>> ODBBBackbone(arch='A0', genotype='genotype.json')
        >>> ODBBBackbone(arch='A0', genotype='odbb_a0_authors')
        >>> ODBBBackbone(base=dict(type='mmpretrain.DenseNet', arch='121'))
    """

    arch_settings = ARCHS

    def __new__(cls, *args, base: dict | None = None, **kwargs):
        if base is None:
            return super().__new__(cls)
        own, of_blocks = (signature(function).parameters.keys() for function in (cls.__init__, _convert))
        others = kwargs.keys() - of_blocks
        if args or (unknown := sorted(others & own)):
            raise ValueError(
                f"ODBBBackbone takes '{'arch' if args else unknown[0]}' or base, not both; put what the backbone "
                'itself needs into base.'
            )
        # what a detector gives its heads besides their config: train_cfg, test_cfg, num_classes
        given = {name: kwargs.pop(name) for name in others}
        with explain_errors(f'base={quote(base)} builds no backbone'):
            backbone = MODELS.build({**base, **given})
        return _convert(backbone, **kwargs)

    def __init__(
        self,
        arch: str | dict | None = None,
        in_channels: int = 3,
        base_channels: int = 64,
        kernel_size: int = 3,
        out_indices: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict = dict(type='ReLU', inplace=True),
        share_weights: bool | None = None,
        genotype=None,
        deploy: bool = False,
        add_ppf: bool = False,
        conv_cfg: None = None,
        init_cfg: dict | list | None = None,
        base: None = None,  # with one, __new__ returns another class
    ):
        super().__init__(init_cfg)
        check_counts('ODBBBackbone', base_channels=base_channels)
        check_flags('ODBBBackbone', norm_eval=norm_eval, share_weights=share_weights is None or share_weights)
        check_flags('ODBBBackbone', deploy=deploy, add_ppf=add_ppf)
        if conv_cfg is not None:
            raise ValueError(
                f'conv_cfg of ODBBBackbone must be None, got {quote(conv_cfg)}: a block has convolutions of its own.'
            )
        arch = check_arch(arch, self.arch_settings, strides=strides, dilations=dilations)
        num_stages = len(arch['num_blocks'])
        named = (-1,) if out_indices is None else out_indices
        if not is_seq_of(named, int) or not named or not all(-num_stages <= i < num_stages for i in named):
            raise ValueError(
                f'out_indices={quote(out_indices)} must name stages of this arch, from 0 to {num_stages - 1} or from '
                f'-{num_stages} to -1.'
            )
        self.out_indices = tuple(i % num_stages for i in named)
        if not is_count(frozen_stages, -1) or frozen_stages > num_stages:
            raise ValueError(
                f'frozen_stages={quote(frozen_stages)} must be from -1 to {num_stages}, the stages of this arch.'
            )
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval

        layout = block_shapes(arch, in_channels, base_channels)
        if genotype is not None and not deploy:
            genotype = resolve_genotype(
                genotype, {n: candidates(b['in_channels'], b['out_channels'], b['stride']) for n, b in layout.items()}
            )
            share_weights = genotype.share_weights if share_weights is None else share_weights
        blocks = {
            name: ODBBlock(
                **shape,
                kernel_size=kernel_size,
                branches=genotype[name] if genotype is not None and not deploy else None,
                share_weights=bool(share_weights),
                norm_cfg=norm_cfg,
                act_cfg=act_cfg,
                with_cp=with_cp,
                deploy=deploy,
            )
            for name, shape in layout.items()
        }
        self.stem = blocks.pop('stem', nn.Identity())
        self.stages = [f'stage_{i + 1}' for i in range(num_stages)]
        for stage in self.stages:
            self.add_module(stage, Sequential(*(b for name, b in blocks.items() if name.startswith(stage + '.'))))
        self.pool = nn.MaxPool2d(2) if arch.get('pool') else nn.Identity()
        widths = [stage[-1].out_channels for stage in map(self.get_submodule, self.stages)]
        self.out_channels = [widths[i] for i in sorted({*self.out_indices})]
        ppf = dict(in_channels=widths[-1], out_channels=widths[-1], norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.ppf = MTSPPF(**ppf) if add_ppf else nn.Identity()
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        outs = []
        for i, stage in enumerate(self.stages):
            x = self.pool(getattr(self, stage)(x))
            if i == len(self.stages) - 1:
                x = self.ppf(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        rename_network(state_dict, prefix)
        found = {key[len(prefix) :] for key in state_dict if key.startswith(prefix)}
        blocks = find_blocks(self)
        missing = [name for name in blocks if not any(key.startswith(f'{name}.') for key in found)]
        unknown = [k for k in found if k.startswith('stage_') and not any(k.startswith(f'{n}.') for n in blocks)]
        # inside a larger model a checkpoint may lack the whole backbone
        if unknown or (missing and (not prefix or len(missing) < len(blocks))):
            what = f"has no block '{prefix}{missing[0]}'" if missing else f"has '{prefix}{min(unknown)}', the model not"
            hint = " (for a whole model's checkpoint, give init_cfg prefix='backbone.')" if not prefix else ''
            raise ValueError(f'The checkpoint {what}; it is of another arch{hint}.')
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _freeze_stages(self) -> None:
        frozen = ['stem', *self.stages][: self.frozen_stages + 1]
        for module in map(self.get_submodule, frozen):
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad = False

    def train(self, mode: bool = True) -> 'ODBBBackbone':
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    @property
    def deploy(self) -> bool:
        """True if every block is fused."""
        return all(block.deploy for block in find_blocks(self).values())

    def switch_to_deploy(self) -> None:
        """Fuse every block into one convolution, in place."""
        for block in find_blocks(self).values():
            block.switch_to_deploy()


def _convert(
    backbone: nn.Module,
    genotype=None,
    share_weights: bool | None = None,
    norm_cfg: dict = dict(type='BN'),
    with_cp: bool = False,
    deploy: bool = False,
) -> nn.Module:
    """``backbone`` with ODBB blocks for convolutions, in the form that the other arguments say."""
    check_flags('ODBBBackbone', share_weights=share_weights is None or share_weights, deploy=deploy)
    if deploy:
        return to_odbb(backbone, deploy=True)
    if genotype is not None:
        genotype = resolve_genotype(genotype, find_candidates(to_odbb(deepcopy(backbone))))
        share_weights = genotype.share_weights if share_weights is None else share_weights
    to_odbb(backbone, share_weights=bool(share_weights), norm_cfg=norm_cfg, with_cp=with_cp)
    if genotype is not None:
        genotype.apply_to(backbone)
    return backbone
