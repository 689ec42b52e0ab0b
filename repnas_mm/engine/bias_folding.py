"""The bias of a fused convolution goes into the norm behind it, as in the stock model, which has none there."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from weakref import ref

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..search.block import find_blocks


@contextmanager
def watch_norms(model: nn.Module) -> Iterator[dict[str, list[str]]]:
    """Find which norms read the blocks' outputs in the forwards of a ``with`` block.

    Of blocks that no forward calls, such as those of heads that only a loss uses, the layer that they are in tells.

    Yields:
        A dict, filled when the block ends: block name -> names of the norms that take its output, unchanged, as their
        only input.
    """
    blocks = {name: model.get_submodule(name) for name in find_blocks(model)}
    inside = {module for block in blocks.values() for module in block.modules()}
    norms = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m not in inside}
    called: set[str] = set()
    outputs: dict[int, tuple] = {}
    sources = defaultdict(set)

    def leave_block(name, out):
        called.add(name)
        outputs[id(out)] = name, ref(out), out._version

    def enter_norm(name, x):
        block, alive, version = outputs.get(id(x), ('', lambda: None, 0))
        # another tensor may have got the id of one that is gone; one changed in place is no longer the block's output
        sources[name].add(block if alive() is x and x._version == version else '')

    handles = [b.register_forward_hook(lambda *a, name=n: leave_block(name, a[2])) for n, b in blocks.items()]
    handles += [
        m.register_forward_pre_hook(
            lambda _, args, kwargs, name=n: enter_norm(name, *args, *kwargs.values()), with_kwargs=True
        )
        for n, m in norms.items()
    ]
    following: dict[str, list[str]] = {}
    try:
        yield following
    finally:
        for handle in handles:
            handle.remove()
        for norm, found in sources.items():
            if len(found) == 1 and (block := found.pop()):
                following.setdefault(block, []).append(norm)
        for name in blocks.keys() - called:
            norm = _next_in_layer(model, name)
            if norm is not None and norm in norms and norm not in sources:
                following[name] = [norm]


def _next_in_layer(model: nn.Module, name: str) -> str | None:
    """Name what follows a module directly in its ConvModule or Sequential, or follows that where the module is last."""
    if not name:
        return None
    parent, _, key = name.rpartition('.')
    layer = model.get_submodule(parent)
    if isinstance(layer, ConvModule) and type(layer).forward is ConvModule.forward:
        steps = dict(conv='conv', norm=layer.norm_name if layer.with_norm else '', act='activate')
        names = [steps[step] for step in layer.order if steps[step] and (step != 'act' or layer.with_activation)]
    elif type(layer).forward is nn.Sequential.forward:
        names = [*layer._modules]
    else:
        return None
    if key == names[-1]:
        return _next_in_layer(model, parent)
    after = dict(pairwise(names)).get(key)
    return f'{parent}.{after}' if after and parent else after


@torch.no_grad()
def fold_biases(model: nn.Module, without_bias: list[str], following: Mapping[str, list[str]]) -> list[str]:
    """Move the biases of fused convolutions into the norms behind them, in place.

    BN(y + b) with running mean μ is BN(y) with μ - b; in training mode b makes no difference.

    Args:
        without_bias: Names of the convolutions that have no bias in the stock model.
        following: Of `watch_norms`.

    Returns:
        Names of convolutions that keep their bias, because no norm follows.
    """
    kept = []
    for name in without_bias:
        conv = model.get_submodule(name)
        norms = [model.get_submodule(norm) for norm in following.get(name, ())]
        if not norms or any(norm.running_mean is None for norm in norms):
            kept.append(name)
            continue
        for norm in norms:
            norm.running_mean -= conv.bias
        conv.bias = None
    return kept


@torch.no_grad()
def unfold_bias(model: nn.Module, name: str, bias: Tensor, following: Mapping[str, list[str]]) -> None:
    """Undo `fold_biases` for one convolution."""
    model.get_submodule(name).bias = bias
    for norm in following[name]:
        model.get_submodule(norm).running_mean += bias
