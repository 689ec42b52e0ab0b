"""The block as a convolution layer: for ``conv_cfg=dict(type='ODBBConv2d')``, and in place of existing convolutions."""

from collections.abc import Iterable, Sequence

import torch
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..checks import check_counts, check_flags, is_count, shown
from ..registry import register
from ..search.genotype import PRESETS
from ..search.space import candidates
from .odbb import ODBBlock
from .warm_start import MAIN_BRANCH

_PADDING_MODES = ('zeros', 'reflect', 'replicate', 'circular')  # nn.Conv2d's


@register('MODELS')
class ODBBConv2d(ODBBlock):
    """An `ODBBlock` without activation that takes the arguments of ``nn.Conv2d`` and, fused, becomes one.

    Where a convolution is not eligible (`eligible`: 1×1, even or oblong kernels, dilation, other padding than zeros)
    an ordinary ``nn.Conv2d`` is made instead. `switch_to_deploy` turns the object itself into an ordinary convolution,
    whose keys in a checkpoint are the stock model's; `repnas_mm.engine.fusing.fuse_model` then folds its bias into the
    norm behind it.

    A checkpoint decides the form: one of a search, of its subnet, of the fused model, or of the stock model (as which
    the network then starts, with all branches there to learn) loads into the same config.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode: As ``nn.Conv2d``.
        bias (bool): Whether the fused convolution may have a bias. While there are branches, their BNs hold it.
            Defaults to True.
        genotype (str, optional): A preset's name (``'repvgg'``, ...) for a block with fixed branches. A searched
            genotype comes with the subnet checkpoint. Defaults to None: search form.
        share_weights (bool, optional): Defaults to None: True in a search, False in a preset.
        norm_cfg (dict): Of the branches. Defaults to ``dict(type='BN')``.
        with_cp (bool): Recompute the branches in backward. Defaults to False.
        adaptive_padding (bool): Pad as ``Conv2dAdaptivePadding`` does, in which case it fuses into one of those.
            Defaults to False.
        deploy (bool): Make the fused convolution, which accepts a bias from its checkpoint. Defaults to False.

    Example:
        >>> model = dict(type='ResNet', depth=50, conv_cfg=dict(type='ODBBConv2d'))
    """

    def __new__(
        cls,
        in_channels: int | None = None,
        out_channels: int | None = None,
        kernel_size: int | tuple[int, int] | None = None,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = 'zeros',
        genotype: str | None = None,
        share_weights: bool | None = None,
        norm_cfg: dict = dict(type='BN'),
        with_cp: bool = False,
        adaptive_padding: bool = False,
        deploy: bool = False,
    ):
        if in_channels is out_channels is kernel_size is None:  # copy and pickle make an empty object first
            return super().__new__(cls)
        _check_convolution(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        check_flags('an ODBBConv2d', share_weights=share_weights is None or share_weights, with_cp=with_cp)
        check_flags('an ODBBConv2d', adaptive_padding=adaptive_padding, deploy=deploy)
        block = eligible(kernel_size, stride, padding, dilation, padding_mode)
        if block and not deploy:
            return super().__new__(cls)
        shape = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        conv = Conv2dAdaptivePadding(*shape) if adaptive_padding else nn.Conv2d(*shape, padding_mode)
        if block and not bias:
            # the public name is of torch 2.5
            conv._register_load_state_dict_pre_hook(_accept_bias, with_module=True)
        return conv

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = 'zeros',
        genotype: str | None = None,
        share_weights: bool | None = None,
        norm_cfg: dict = dict(type='BN'),
        with_cp: bool = False,
        adaptive_padding: bool = False,
        deploy: bool = False,
    ):
        size, step = _pair(kernel_size)[0], _pair(stride)[0]
        super().__init__(
            in_channels,
            out_channels,
            size,
            step,
            groups,
            branches=_preset_branches(genotype, candidates(in_channels, out_channels, step)),
            share_weights=genotype is None if share_weights is None else share_weights,
            norm_cfg=norm_cfg,
            act_cfg=None,
            with_cp=with_cp,
        )
        self.padding = _pair(padding)
        self.adaptive_padding = adaptive_padding
        self.with_bias = bool(bias)
        # what code that handles ordinary convolutions, such as ConvModule, reads
        self.bias = None
        self.dilation, self.padding_mode = (1, 1), padding_mode
        self.transposed, self.output_padding = False, (0, 0)

    def _padding(self, x: Tensor) -> tuple[int, int, int, int]:
        if not self.adaptive_padding:
            rows, cols = self.padding
            return cols, cols, rows, rows
        height, width = (
            max((-(-length // self.stride) - 1) * self.stride + self.kernel_size - length, 0) for length in x.shape[2:]
        )
        return width // 2, width - width // 2, height // 2, height - height // 2

    def switch_to_deploy(self) -> None:
        """Become the ordinary convolution that computes what the active branches do, bias included. In place."""
        kernel, bias = self.get_equivalent_kernel_bias()
        trainable = any(p.requires_grad for p in self.branches.parameters())
        self._become_plain(nn.Parameter(kernel, trainable), nn.Parameter(bias, trainable))

    def switch_to_plain(self) -> None:
        """Become the ordinary convolution of branch ``kxk``, on the same parameter, before any training. In place."""
        weight = self.weight if self.share_weights else self.branches[MAIN_BRANCH].weight
        bias = self.branches[MAIN_BRANCH].norm.bias if self.with_bias else None
        self._become_plain(weight, bias)

    def _become_plain(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        shape = (self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, 1, self.groups)
        with torch.device('meta'):
            conv = (Conv2dAdaptivePadding if self.adaptive_padding else nn.Conv2d)(*shape, bias=False)
        conv.weight, conv.bias = weight, bias
        conv.train(self.training)
        # the object itself, so that whatever else refers to this convolution sees the plain one too
        self.__class__, self.__dict__ = type(conv), conv.__dict__

    def _load_from_state_dict(self, state_dict, prefix, *args):
        kept = {key[len(prefix) :].split('.')[1] for key in state_dict if key.startswith(f'{prefix}branches.')}
        if self.alpha is not None and kept and f'{prefix}alpha' not in state_dict:
            self.switch_to_subnet(kept)
        super()._load_from_state_dict(state_dict, prefix, *args)


def eligible(kernel_size, stride, padding, dilation, padding_mode: str) -> bool:
    """Whether a convolution with these arguments of ``nn.Conv2d`` can be a block: K×K, K odd and at least 3, undilated,
    one stride, padded by zeros."""
    (rows, cols), (down, right) = _pair(kernel_size), _pair(stride)
    return (
        rows == cols
        and rows % 2 == 1
        and rows >= 3
        and down == right
        and _pair(dilation) == (1, 1)
        and not isinstance(padding, str)
        and padding_mode == 'zeros'
    )


def _check_convolution(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode) -> None:
    """Raise ValueError unless ``nn.Conv2d`` takes these arguments."""
    check_counts('an ODBBConv2d', in_channels=in_channels, out_channels=out_channels, groups=groups)
    if in_channels % groups or out_channels % groups:
        raise ValueError(f'groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}.')
    for name, value, least in (
        ('kernel_size', kernel_size, 1),
        ('stride', stride, 1),
        ('padding', padding, 0),
        ('dilation', dilation, 1),
    ):
        if name == 'padding' and isinstance(value, str) and value in ('same', 'valid'):
            continue
        pair = value if isinstance(value, Sequence) else (value, value)
        if len(pair) != 2 or not all(is_count(length, least) for length in pair):
            raise ValueError(
                f'{name} of an ODBBConv2d must be one or two integers of at least {least}, got {shown(value)}.'
            )
    if isinstance(padding, str) and padding == 'same' and _pair(stride) != (1, 1):
        raise ValueError(f"padding='same' of an ODBBConv2d needs stride=1, got {shown(stride)}.")
    if not isinstance(padding_mode, str) or padding_mode not in _PADDING_MODES:
        raise ValueError(
            f'padding_mode of an ODBBConv2d must be one of {", ".join(_PADDING_MODES)}, got {shown(padding_mode)}.'
        )


def _preset_branches(genotype: str | None, existing: Iterable[str]) -> tuple[str, ...] | None:
    if genotype is None:
        return None
    if not isinstance(genotype, str) or genotype not in PRESETS:
        raise ValueError(
            f'genotype={shown(genotype)} of an ODBBConv2d must be one of the presets {", ".join(PRESETS)}; a searched '
            'one comes with the subnet checkpoint, or with ODBBBackbone(base=..., genotype=...).'
        )
    return tuple(name for name in existing if name in PRESETS[genotype])


def _accept_bias(conv: nn.Conv2d, state_dict: dict, prefix: str, *_) -> None:
    """Give ``conv`` the bias that its checkpoint has and the stock layer has not: no norm could take it."""
    bias = state_dict.get(f'{prefix}bias')
    if bias is not None and conv.bias is None:
        conv.bias = nn.Parameter(conv.weight.new_zeros(bias.shape), conv.weight.requires_grad)
