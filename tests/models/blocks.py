"""Blocks and images that leave no mistake a place to hide, for the tests beside this file."""

from itertools import product

import torch

from repnas_mm.models import ODBBlock


def randomize(module, seed=0):
    """Fill parameters and BN statistics with random numbers: gammas of both signs, no bias or mean left at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            random = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if name.endswith('running_var'):
                random = 0.3 + 2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            elif tensor.dim() == 4:
                random /= tensor[0].numel() ** 0.5
            tensor.copy_(random)
    return module


def make_block(
    in_channels=4, out_channels=4, kernel_size=3, stride=1, groups=1, dtype=torch.float64, dilation=1, **kwargs
):
    """A random block; without an activation, which would hide negative values."""
    kwargs.setdefault('act_cfg', None)
    block = ODBBlock(in_channels, out_channels, kernel_size, stride, groups, dilation, **kwargs)
    return randomize(block).to(dtype)


def make_image(*shape, seed=1, dtype=torch.float64):
    """Random, with a frame of two pixels that is 100 times larger, so that wrong padding cannot pass."""
    x = 100 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[:, :, 2:-2, 2:-2] /= 100
    return x.to(dtype)


def masks(block):
    """Every non-empty subset of the block's candidates, as bools."""
    return [mask for mask in product([True, False], repeat=len(block.candidates)) if any(mask)]


def mask_of(block, names):
    return [name in names for name in block.candidates]


def relative_error(got, expected):
    """max |Δ| / max |y|."""
    return ((got - expected).abs().max() / expected.abs().max()).item()
