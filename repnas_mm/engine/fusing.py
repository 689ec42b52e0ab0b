"""Fuse a whole model and prove that it still computes the same."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy

import torch
from mmengine.model import BaseTTAModel
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ..search.space import find_blocks

#: Largest max |Δ| / max |y| between the fused and the unfused model, in float32, that counts as equal.
TOLERANCE = 1e-4


def fuse_model(model: nn.Module) -> None:
    """Switch every ODBB block of ``model`` to deploy form, in place."""
    blocks = find_blocks(model)
    if not blocks:
        raise ValueError(f'{type(model).__name__} has no ODBB block to fuse; use ODBBBackbone in its config.')
    for block in blocks.values():
        block.switch_to_deploy()


def is_fused(model: nn.Module) -> bool:
    """Whether no block is left to fuse."""
    return all(block.deploy for block in find_blocks(model).values())


def fuse_checked(model: nn.Module, output: Callable[[nn.Module], list[Tensor]]) -> float:
    """`fuse_model`, refused if what the model computes changes by more than `TOLERANCE`.

    Args:
        model: Fused in place.
        output: The model's raw outputs for some real input, such as `network_output` of a batch.

    Returns:
        Largest max |Δ| / max |y| over all outputs.

    Raises:
        RuntimeError: when it is larger; the model is fused by then and should not be used.
    """
    before = output(model)
    fuse_model(model)
    difference = max_difference(before, output(model))
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f'The fused model differs from the unfused one by {difference:.1e} of its largest output, more than '
            f'{TOLERANCE:.0e}; it is not saved. Check for NaN or tiny running variances in the BNs.'
        )
    return difference


def network_output(model: nn.Module, batch: Mapping) -> list[Tensor]:
    """`raw_output` of a batch as the dataloader gives it."""
    if isinstance(model, BaseTTAModel):  # its batches hold one batch for each augmentation
        model, batch = model.module, {key: value[0] for key, value in batch.items()}
    return raw_output(model, **model.data_preprocessor(deepcopy(batch), False))


@torch.no_grad()
def raw_output(model: nn.Module, inputs: Tensor, data_samples=None) -> list[Tensor]:
    """The raw outputs (``mode='tensor'``) for preprocessed images, in eval mode, float32 without TF32."""
    training = model.training
    model.eval()
    try:
        with exact_float32():
            out = model(inputs, data_samples, mode='tensor')
    finally:
        model.train(training)
    return [leaf for leaf in tree_flatten(out)[0] if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def max_difference(first: list[Tensor], second: list[Tensor]) -> float:
    """Largest max |Δ| / max |y| over pairs of tensors; NaN if anything is not finite."""
    ratios = [(a - b).abs().max() / a.abs().max().clamp_min(torch.finfo(a.dtype).tiny) for a, b in zip(first, second)]
    return float(torch.stack([r.double() for r in ratios]).max())


@contextmanager
def exact_float32() -> Iterator[None]:
    """No TF32 and no autocast, whatever the surroundings use."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    saved = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        with torch.autocast('cuda', enabled=False), torch.autocast('cpu', enabled=False):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = saved
