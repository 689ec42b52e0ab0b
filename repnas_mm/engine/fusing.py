"""Fuse a whole model and prove that it still computes the same."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import NamedTuple

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ..search.block import find_blocks, is_convolution_block
from .bias_folding import fold_biases, unfold_bias, watch_norms
from .tensor_forward import calling_copies, tensor_calls

#: What a model without ODBB blocks needs to have some.
NO_BLOCKS_HINT = "use backbone=dict(type='mmpretrain.ODBBBackbone') or conv_cfg=dict(type='ODBBConv2d') in its config"

#: Largest max |Δ| / max |y| between the fused and the unfused model, in float32, that counts as equal.
TOLERANCE = 1e-4

#: The same before any training
UNTRAINED_TOLERANCE = 1e-2


class Fused(NamedTuple):
    """Report of fusing a model."""

    #: Largest max |Δ| / max |y| over all outputs.
    difference: float
    #: Convolutions with a bias that the stock model's have not, since no norm could take it.
    new_biases: list[str]

    def note_on_biases(self) -> str:
        """Name them, in a sentence."""
        return (
            f'Convolutions with a bias that the stock model has not, since no BN behind them takes it: '
            f'{", ".join(self.new_biases)}; their part of the fused config needs this package.'
        )


def fuse_model(model: nn.Module) -> list[str]:
    """Turn every ODBB block of ``model`` into one convolution, in place.

    Args:
        model: With at least one block.

    Returns:
        Names of the convolutions with a bias that the stock model's have not; `fold_biases` may fold them into norms.
    """
    blocks = find_blocks(model)
    if not blocks:
        raise ValueError(f'{type(model).__name__} has no ODBB block to fuse; {NO_BLOCKS_HINT}.')
    without_bias = [name for name, block in blocks.items() if is_convolution_block(block) and not block.with_bias]
    for block in blocks.values():
        block.switch_to_deploy()
    return without_bias


def is_fused(model: nn.Module) -> bool:
    """Return True if the model has blocks and all of them are fused; convolutions that were blocks are none now."""
    blocks = find_blocks(model)
    return bool(blocks) and all(block.deploy for block in blocks.values())


def fuse_checked(model: nn.Module, output: Callable[[nn.Module], list[Tensor]], trained: bool = True) -> Fused:
    """Fuse as `fuse_model` does, refused if what the model computes changes by more than `TOLERANCE`.

    Args:
        model: Fused in place.
        output: The model's raw outputs for some real input, such as `network_output` of a batch.
        trained: False for a model whose BN statistics do not fit its activations yet, which may grow beyond all bounds
            and magnify rounding: it may change by `UNTRAINED_TOLERANCE`, and its outputs need not be finite.

    Raises:
        RuntimeError: when it changes by more; the model is fused by then and should not be used.
    """
    with watch_norms(model) as following:
        before = output(model)
    unfolded = fuse_model(model)
    biases = {name: model.get_submodule(name).bias for name in unfolded}
    new_biases = fold_biases(model, unfolded, following)
    difference = max_difference(before, output(model))
    tolerance = TOLERANCE if trained else UNTRAINED_TOLERANCE
    if not trained and not all(out.isfinite().all() for out in before):
        return Fused(difference, new_biases)
    if not difference <= tolerance:
        # something besides the norms may read a convolution's output: fold one at a time, where nothing changes
        folded = [name for name in unfolded if name not in new_biases]
        for name in folded:
            unfold_bias(model, name, biases[name], following)
        difference = max_difference(before, output(model))
        for name in folded if difference <= tolerance else ():
            fold_biases(model, [name], following)
            if not max_difference(before, output(model)) <= tolerance:
                unfold_bias(model, name, biases[name], following)
                del following[name]
                new_biases.append(name)
    if not difference <= tolerance:
        raise RuntimeError(
            f'The fused model differs from the unfused one by {difference:.1e} of its largest output, more than '
            f'{tolerance:.0e}; it is not saved. Check for NaN or tiny running variances in the BNs.'
        )
    return Fused(difference, new_biases)


def network_output(model: nn.Module, batch: Mapping) -> list[Tensor]:
    """Compute `raw_output` of a batch as the dataloader of a test gives it."""
    if isinstance(model, BaseTTAModel):  # its batches hold one batch for each augmentation
        model, batch = model.module, {key: value[0] for key, value in batch.items()}
    return output_of(model, model.data_preprocessor(deepcopy(batch), False))


def output_of(model: nn.Module, inputs: Mapping | Sequence) -> list[Tensor]:
    """Compute `raw_output` of a preprocessed batch, which stays as it is."""
    inputs = deepcopy(inputs)
    return raw_output(model, **inputs) if isinstance(inputs, Mapping) else raw_output(model, *inputs)


@torch.no_grad()
def raw_output(model: nn.Module, inputs: Tensor, data_samples=None) -> list[Tensor]:
    """Compute the raw outputs (``mode='tensor'``) for preprocessed images, in eval mode, float32 without TF32.

    Those of copies of networks in it are among them (`tensor_forward`).
    """
    training = model.training
    model.eval()
    try:
        with exact_float32(), calling_copies(model) as of_copies:
            out = [
                _two_stage_output(network, images, samples)
                if hasattr(network, 'roi_head')
                else network(images, samples, mode='tensor')
                for network, images, samples in tensor_calls(model, inputs, data_samples)
            ]
    finally:
        model.train(training)
    return [leaf for leaf in tree_flatten([out, of_copies])[0] if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _two_stage_output(detector: nn.Module, images: Tensor, data_samples) -> list:
    """Compute features, RPN outputs and RoI outputs at fixed boxes, (x1, y1, x2, y2) in pixels.

    Not ``mode='tensor'``, whose RoIs are the RPN's: the last bit of a score may change their choice and order.
    """
    features = detector.extract_feat(images)
    height, width = images.shape[2:]
    size = images.new_tensor([width, height, width, height])
    boxes = size * images.new_tensor([[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.4, 0.4, 0.6, 0.6], [0.5, 0.1, 0.6, 0.9]])
    proposals = [InstanceData(bboxes=boxes) for _ in images]
    rpn = detector.rpn_head(features) if detector.with_rpn else []
    return [features, rpn, detector.roi_head(features, proposals, data_samples)]


def max_difference(first: list[Tensor], second: list[Tensor]) -> float:
    """Compute the largest max |Δ| / max |y| over pairs of tensors; NaN if anything is not finite."""
    ratios = [(a - b).abs().max() / a.abs().max().clamp_min(torch.finfo(a.dtype).tiny) for a, b in zip(first, second)]
    return float(torch.stack([r.double() for r in ratios]).max())


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute without TF32 and without autocast inside the ``with`` block, whatever the surroundings use."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    saved = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        with torch.autocast('cuda', enabled=False), torch.autocast('cpu', enabled=False):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = saved
