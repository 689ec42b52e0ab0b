"""The arguments of a convolution: check them, and tell which convolutions can be blocks."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn
from torch.nn.modules.utils import _pair

from ..checks import check_counts, is_count, quote

_PADDING_MODES = ('zeros', 'reflect', 'replicate', 'circular')  # nn.Conv2d's


class ConvolutionArguments(NamedTuple):
    """Arguments of ``nn.Conv2d``, in its order."""

    in_channels: int
    out_channels: int
    kernel_size: int | tuple[int, int]
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, int] | str = 0
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    bias: bool = True
    padding_mode: str = 'zeros'

    @classmethod
    def of(cls, conv: nn.Conv2d) -> 'ConvolutionArguments':
        """Read the arguments that made ``conv``."""
        return cls(*(getattr(conv, name) for name in cls._fields))._replace(bias=conv.bias is not None)

    def obstacle(self) -> str:
        """Say why it cannot be a block, in a word or two; '' for K×K, K odd and at least 3, padded by zeros."""
        rows, columns = _pair(self.kernel_size)
        if rows == columns == 1:
            return '1×1'
        if rows != columns:
            return 'oblong kernel'
        if rows % 2 == 0:
            return 'even kernel'
        if any(len(set(_pair(value))) > 1 for value in (self.stride, self.dilation)):
            return 'two strides or dilations'
        return 'padding other than zeros' if isinstance(self.padding, str) or self.padding_mode != 'zeros' else ''

    def eligible(self) -> bool:
        """True if it can be a block."""
        return not self.obstacle()

    def check(self) -> None:
        """Raise ValueError unless ``nn.Conv2d`` takes these arguments."""
        check_counts('an ODBBConv2d', in_channels=self.in_channels, out_channels=self.out_channels, groups=self.groups)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f'groups={self.groups} must divide in_channels={self.in_channels} and out_channels={self.out_channels}.'
            )
        for name, least in dict(kernel_size=1, stride=1, padding=0, dilation=1).items():
            value = getattr(self, name)
            if name == 'padding' and isinstance(value, str) and value in ('same', 'valid'):
                continue
            pair = value if isinstance(value, Sequence) else (value, value)
            if len(pair) == 3 and all(is_count(length, least) for length in pair):
                raise ValueError(
                    f'{name}={quote(value)} is of a 3-D convolution, which an ODBBConv2d does not support; leave '
                    "conv_cfg of that part of the model at dict(type='Conv3d')."
                )
            if len(pair) != 2 or not all(is_count(length, least) for length in pair):
                raise ValueError(
                    f'{name} of an ODBBConv2d must be one or two integers of at least {least}, got {quote(value)}.'
                )
        if self.padding == 'same' and _pair(self.stride) != (1, 1):
            raise ValueError(f"padding='same' of an ODBBConv2d needs stride=1, got {quote(self.stride)}.")
        if not isinstance(self.padding_mode, str) or self.padding_mode not in _PADDING_MODES:
            raise ValueError(
                f'padding_mode of an ODBBConv2d must be one of {", ".join(_PADDING_MODES)}, '
                f'got {quote(self.padding_mode)}.'
            )
