"""One call of a block's forward: what its branches share, and what a second pass through it must repeat."""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from . import fast, ops
from .fast import recompute
from .layer import Layer
from .norm import border_value, gated_norm

T = TypeVar('T')


class BlockCall:
    """State of one forward call of a block.

    Backward may pass through a call again, under activation checkpointing or for a cheap layer (`fast.recompute`).
    Such a second pass leaves BN statistics as they are and pads the borders of the first. A pass is a ``with`` block,
    because torch ends a checkpointed one by an exception.

    Args:
        padding: Zeros around the image for the K×K window.
        recompute: False if the whole call is checkpointed, so that cheap layers need not be.
    """

    def __init__(self, padding: ops.Padding, recompute: bool = True):
        self.padding = padding
        self.second_pass = self._in_pass = False
        self._recompute = recompute and fast.is_on('recompute')
        self._borders: dict[nn.Module, Tensor] = {}
        self._shared: dict[Hashable, object] = {}

    def __enter__(self) -> None:
        self._in_pass = True

    def __exit__(self, *_) -> None:
        self.second_pass, self._in_pass = True, False
        self._shared.clear()

    def run(self, layers: Sequence[Layer], x: Tensor) -> Tensor:
        """Apply ``layers`` to ``x`` one after the other."""
        if self._recomputes():
            return recompute.run(layers, x)
        for layer in layers:
            x = layer.function(x)
        return x

    def convolve(
        self,
        x: Tensor,
        kernel: Callable[[], Tensor],
        stride: int,
        padding: ops.Padding,
        groups: int,
        bias=None,
        dilation: int = 1,
    ) -> Tensor:
        """Convolution with what ``kernel`` returns, which is cheap to compute from parameters again."""
        convolution = partial(
            ops.conv2d, x, stride=stride, padding=padding, groups=groups, bias=bias, dilation=dilation
        )
        weight = kernel()
        # a parameter, or a crop of one, is there anyway
        if not self._recomputes() or isinstance(weight, nn.Parameter) or isinstance(weight._base, nn.Parameter):
            return convolution(weight)
        with recompute.saving_instead(weight, kernel):
            return convolution(weight)

    def normalize(self, norm: nn.Module, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """``gate * norm(x)``; statistics move in the first pass only."""
        return gated_norm(norm, x, gate, not self.second_pass)

    def border(self, norm: nn.Module) -> Tensor:
        """Output of an inner ``norm`` for a zero pixel, (C,), after the first pass has moved its statistics."""
        if norm not in self._borders:
            self._borders[norm] = border_value(norm)
        return self._borders[norm]

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Result of ``compute``, which the branches share under this ``key`` until the pass ends."""
        if not self._in_pass:
            return compute()
        if key not in self._shared:
            self._shared[key] = compute()
        return self._shared[key]  # type: ignore[return-value]

    def _recomputes(self) -> bool:
        return self._recompute and not self.second_pass and torch.is_grad_enabled()
