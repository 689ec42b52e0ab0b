"""Equalize the channels of a fused network before its weights are rounded to 8 bits; it computes the same as before.

Behind a layer and a ReLU, every channel may be divided by a factor of its own if the next layer's weights for it are
multiplied by the same factor (cross-layer equalization, arXiv:1906.04721; against activations, arXiv:2211.10438).
"""

from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from ..models.norm import scale_and_shift
from .deployment import Network
from .fusing import raw_output

#: Rounds over all pairs, since each changes its neighbors' ranges
ROUNDS = 20

#: A channel that is smaller than this part of the largest one counts as that large: it may be zero on all images
QUIET = 1e-3

_OPS = torch.ops.aten
_LAYERS = (_OPS.conv2d.default, _OPS.linear.default)
#: f with f(s·x) = s·f(x) for a factor s > 0 a channel
_HOMOGENEOUS = (
    *(_OPS.relu.default, _OPS.relu_.default, _OPS.leaky_relu.default, _OPS.leaky_relu_.default),
    *(_OPS.max_pool2d.default, _OPS.avg_pool2d.default, _OPS.adaptive_avg_pool2d.default, _OPS.dropout.default),
)
_RESHAPES = (_OPS.view.default, _OPS.reshape.default, _OPS.flatten.using_ints)


class Pair(NamedTuple):
    """A layer, the norm behind it if there is one, and the next layer, which alone reads what they give."""

    first: nn.Module
    norm: nn.Module | None
    second: nn.Module

    def rows(self) -> Tensor:
        """Range of the first layer's weights for each of its output channels, (C,)."""
        rows = self.first.weight.abs().flatten(1).amax(1)
        if self.norm is not None:
            scale, shift = scale_and_shift(self.norm)
            rows = rows * scale.abs()
        else:
            shift = self.first.bias
        if shift is not None:
            rows = torch.maximum(rows, shift.abs())  # a channel that is hardly more than its bias must not grow
        return rows

    def equalize(self, peaks: Tensor | None = None) -> None:
        """Give every channel the same range on both sides: the next layer's weights for it, and ``peaks`` or its own.

        Args:
            peaks: (C,), the largest value of each channel, which changes with it.
        """
        scaled = self.norm or self.first
        rows = self.rows() if peaks is None else peaks.clamp_min(QUIET * peaks.max())
        columns = self.second.weight.unflatten(0, (getattr(self.second, 'groups', 1), -1))  # a view, as are its parts
        ranges = columns.abs().amax((1, *range(3, columns.ndim))).flatten()
        factors = torch.where((rows > 0) & (ranges > 0), (rows / ranges).sqrt(), 1.0)
        scaled.weight /= factors.view(-1, *[1] * (scaled.weight.ndim - 1))
        if scaled.bias is not None:
            scaled.bias /= factors
        columns *= factors.view(len(columns), 1, -1, *[1] * (columns.ndim - 3))
        if peaks is not None:
            peaks /= factors


@torch.no_grad()
def equalize(model: nn.Module, images: Tensor, per_channel: bool = True) -> int:
    """Balance channels between consecutive layers, in place, exact but for rounding.

    Where weights have a scale for each output channel, the next layer's weights for a channel are balanced against its
    activations: one large weight takes the steps of all others of its output channel, even if what it is multiplied by
    is always zero. Where a layer has one scale, they are balanced against the weights in front of it.

    Args:
        model: An MMEngine model, fused. Its keys stay.
        images: (N, C, H, W), normalized, of the training set.
        per_channel: Whether weights will have a scale for each output channel, or one for the layer.

    Returns:
        The number of pairs of layers. A layer whose output a sum or a concatenation reads is left alone.
    """
    pairs = find_pairs(model, images[:1])
    peaks = _peaks(model, images, pairs) if per_channel else [None] * len(pairs)
    for _ in range(ROUNDS):
        for pair, own in zip(pairs, peaks):
            pair.equalize(own)
    return len(pairs)


def _peaks(model: nn.Module, images: Tensor, pairs: list[Pair]) -> list[Tensor]:
    """The largest absolute value of each channel between the layers of each pair, (C,)."""
    peaks: dict[nn.Module, Tensor] = {}
    handles = [
        pair.second.register_forward_pre_hook(
            lambda layer, inputs: peaks.update({layer: inputs[0].abs().transpose(0, 1).flatten(1).amax(1)})
        )
        for pair in pairs
    ]
    raw_output(model, images)
    for handle in handles:
        handle.remove()
    return [peaks[pair.second] for pair in pairs]


def find_pairs(model: nn.Module, images: Tensor) -> list[Pair]:
    """Find the convolutions and linear layers between which only operations are that pass a channel's factor on."""
    training = model.training
    try:
        program = torch.export.export(Network(model.eval()), (images,))
    finally:
        model.train(training)
    names = program.graph_signature.inputs_to_parameters
    uses = Counter(node.args[1] for node in program.graph.nodes if node.target in _LAYERS)

    def owner(node: fx.Node) -> nn.Module:
        return model.get_submodule(names[node.args[1].name].removeprefix('model.').rpartition('.')[0])

    pairs = []
    for node in program.graph.nodes:
        if node.target not in _LAYERS:
            continue
        norm = next(iter(node.users))
        if len(node.users) > 1 or norm.target != _OPS.batch_norm.default or norm.args[1] is None:
            norm = None
        second = _next_layer(norm or node)
        if second is not None and uses[node.args[1]] == uses[second.args[1]] == 1:
            pairs.append(Pair(owner(node), norm and owner(norm), owner(second)))
    return pairs


def _next_layer(node: fx.Node) -> fx.Node | None:
    channels = node.meta['val'].shape[1]
    while len(node.users) == 1:
        (node,) = node.users
        if node.target in _LAYERS:
            return node
        keeps_channels = node.target in _RESHAPES and node.meta['val'].shape[1:].numel() == channels
        if node.target not in _HOMOGENEOUS and not keeps_channels:
            break
    return None
