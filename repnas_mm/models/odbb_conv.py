"""The block as a convolution layer: for ``conv_cfg=dict(type='ODBBConv2d')``, and in place of existing convolutions."""

from collections.abc import Iterable
from inspect import signature

import torch
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..checks import check_flags, quote
from ..registry import register
from ..search.genotype import PRESETS
from ..search.space import candidates
from .convolution_arguments import ConvolutionArguments
from .odbb import ODBBlock
from .warm_start import MAIN_BRANCH


@register('MODELS')
class ODBBConv2d(ODBBlock):
    """An `ODBBlock` without activation that takes the arguments of ``nn.Conv2d`` and, fused, becomes one.

    Where a convolution is not eligible (1×1, even or oblong kernels, two dilations, other padding than zeros)
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
        share_weights (bool): Whether the branches share one kernel. Defaults to False.
        norm_cfg (dict): Of the branches. Defaults to ``dict(type='BN')``.
        with_cp (bool): Recompute the branches in backward. Defaults to False.
        adaptive_padding (bool): Pad as ``Conv2dAdaptivePadding`` does, in which case it fuses into one of those.
            Defaults to False.
        deploy (bool): Make the fused convolution, which accepts a bias from its checkpoint. Defaults to False.

    Example:
        >>> model = dict(type='ResNet', depth=50, conv_cfg=dict(type='ODBBConv2d'))
    """

    follows_checkpoint = True

    def __new__(cls, *args, **kwargs):
        if not args and not kwargs:  # copy and pickle make an empty object first
            return super().__new__(cls)
        given = signature(cls.__init__).bind(None, *args, **kwargs)
        given.apply_defaults()
        conv = ConvolutionArguments(**{name: given.arguments[name] for name in ConvolutionArguments._fields})
        conv.check()
        share_weights, with_cp, adaptive_padding, deploy = (
            given.arguments[name] for name in ('share_weights', 'with_cp', 'adaptive_padding', 'deploy')
        )
        check_flags('an ODBBConv2d', share_weights=share_weights, with_cp=with_cp)
        check_flags('an ODBBConv2d', adaptive_padding=adaptive_padding, deploy=deploy)
        if conv.eligible() and not deploy:
            return super().__new__(cls)
        plain = Conv2dAdaptivePadding(*conv[:-1]) if adaptive_padding else nn.Conv2d(*conv)
        if conv.eligible() and not conv.bias:
            # the public name is of torch 2.5
            plain._register_load_state_dict_pre_hook(_accept_bias, with_module=True)
        return plain

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
        share_weights: bool = False,
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
            _pair(dilation)[0],
            branches=_preset_branches(genotype, candidates(in_channels, out_channels, step)),
            share_weights=share_weights,
            norm_cfg=norm_cfg,
            act_cfg=None,
            with_cp=with_cp,
        )
        self.padding = _pair(padding)
        self.adaptive_padding = adaptive_padding
        self.with_bias = bool(bias)
        # what code that handles ordinary convolutions, such as ConvModule, reads
        self.bias = None
        self.dilation, self.padding_mode = _pair(dilation), padding_mode
        self.transposed, self.output_padding = False, (0, 0)

    def __getattr__(self, name: str):
        if name == 'weight':  # other code would fuse one kernel of many, and be wrong without a word
            raise AttributeError(
                "An ODBBConv2d computes with several kernels and has no 'weight' before it is fused; call its "
                'switch_to_deploy() first, or fuse the whole model by FuseHook or tools/fuse.py.'
            )
        return super().__getattr__(name)

    def padding_of(self, x: Tensor) -> tuple[int, int, int, int]:
        if not self.adaptive_padding:
            return super().padding_of(x)
        extent = (self.kernel_size - 1) * _pair(self.dilation)[0] + 1
        height, width = (
            max((-(-length // self.stride) - 1) * self.stride + extent - length, 0) for length in x.shape[2:]
        )
        return width // 2, width - width // 2, height // 2, height - height // 2

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, padding={"adaptive" if self.adaptive_padding else self.padding}'

    def switch_to_deploy(self) -> None:
        """Become the ordinary convolution that computes what the active branches do, bias included. In place."""
        kernel, bias = self.get_equivalent_kernel_bias()
        trainable = any(p.requires_grad for p in self.branches.parameters())
        self._become_plain(nn.Parameter(kernel, trainable), nn.Parameter(bias, trainable))

    def switch_to_plain(self) -> None:
        """Become the ordinary convolution of branch ``kxk``, on the same parameter, before any training. In place."""
        weight = self.kernel if self.share_weights else self.branches[MAIN_BRANCH].weight
        bias = self.branches[MAIN_BRANCH].norm.bias if self.with_bias else None
        self._become_plain(weight, bias)

    def _become_plain(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        names = ('in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'dilation', 'groups')
        with torch.device('meta'):
            conv = (Conv2dAdaptivePadding if self.adaptive_padding else nn.Conv2d)(
                **{name: getattr(self, name) for name in names}, bias=False
            )
        conv.weight, conv.bias = weight, bias
        conv.train(self.training)
        # the object itself, so that whatever else refers to this convolution sees the plain one too
        self.__class__, self.__dict__ = type(conv), conv.__dict__


def _preset_branches(genotype: str | None, existing: Iterable[str]) -> tuple[str, ...] | None:
    if genotype is None:
        return None
    if not isinstance(genotype, str) or genotype not in PRESETS:
        raise ValueError(
            f'genotype={quote(genotype)} of an ODBBConv2d must be one of the presets {", ".join(PRESETS)}; a searched '
            'one comes with the subnet checkpoint, or with ODBBBackbone(base=..., genotype=...).'
        )
    return tuple(name for name in existing if name in PRESETS[genotype])


def _accept_bias(conv: nn.Conv2d, state_dict: dict, prefix: str, *_) -> None:
    """Give ``conv`` the bias that its checkpoint has and the stock layer has not: no norm could take it."""
    bias = state_dict.get(f'{prefix}bias')
    if bias is not None and conv.bias is None:
        conv.bias = nn.Parameter(conv.weight.new_zeros(bias.shape), conv.weight.requires_grad)
