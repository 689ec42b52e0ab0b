"""The BNs of a branch: build one, call it, read it as scale and shift, give it other statistics."""

from numbers import Real

import torch
from mmcv.cnn import build_norm_layer
from mmengine.dist import all_reduce
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..checks import explain_errors, is_positive, quote


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """Build a norm that folds into a convolution: a BN or SyncBN with affine parameters and running statistics.

    Raises:
        ValueError: for any other norm.
    """
    with explain_errors(f'norm_cfg={quote(norm_cfg)} builds no norm'):
        norm = build_norm_layer(norm_cfg, channels)[1]
    if not isinstance(norm, _BatchNorm) or isinstance(norm, nn.BatchNorm1d | nn.BatchNorm3d):
        raise ValueError(
            f'norm_cfg={quote(norm_cfg)} builds a {type(norm).__name__}, which cannot be fused into a convolution; '
            "use type='BN' or type='SyncBN'."
        )
    if norm.weight is None or norm.running_mean is None:
        raise ValueError(
            f'norm_cfg={quote(norm_cfg)} builds a norm without affine parameters or without running statistics, which '
            'cannot be gated and fused; leave affine and track_running_stats at True.'
        )
    if not is_positive(norm.eps):
        raise ValueError(f'eps of norm_cfg must be a positive number, got {quote(norm.eps)}.')
    if norm.momentum is not None and not (isinstance(norm.momentum, Real) and 0 <= norm.momentum <= 1):  # type: ignore[operator]
        raise ValueError(f'momentum of norm_cfg must be None or from 0 to 1, got {quote(norm.momentum)}.')
    return norm


def apply_norm(norm: nn.Module, x: Tensor, update_stats: bool) -> Tensor:
    """``norm(x)`` of (N, C, H, W), without ``update_stats`` as the second pass of a recomputation: none move."""
    if update_stats:
        return norm(x)
    buffers = norm._buffers
    # as torch.func.functional_call does, which takes six times as long as a small norm itself
    norm._buffers = {name: buffer.clone() for name, buffer in buffers.items()}
    try:
        return norm(x)
    finally:
        norm._buffers = buffers


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale γ/σ and shift β - μγ/σ, each (C,), of the norm in eval mode, y -> scale·y + shift; detached float64."""
    mean, var, gamma, beta = (
        t.detach().double() for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    scale = gamma / (var + norm.eps).sqrt()
    return scale, beta - mean * scale


def border_value(norm: nn.Module) -> Tensor:
    """Output of the norm for a zero pixel, β - μγ/σ with running statistics, (C,), detached; border padding pads it."""
    return scale_and_shift(norm)[1].to(norm.weight.dtype)


def batch_moments(y: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and biased variance, each (C,) in float64, of (N, C, H, W) over all ranks, so that these stay equal.

    None where a channel has no value, or a single one, on all ranks together: a BN does not learn from the first and
    refuses the second.
    """
    y = y.to(torch.promote_types(y.dtype, torch.float32))
    count = torch.full((y.shape[1],), float(y[:, 0].numel()), dtype=torch.float64, device=y.device)
    sums = torch.zeros(2, y.shape[1], dtype=torch.float64, device=y.device)
    if y.numel():
        var, mean = (moment.double() for moment in torch.var_mean(y, (0, 2, 3), correction=0))
        sums = torch.stack([mean, var + mean.square()]) * count
    total = torch.cat([sums, count[None]])
    all_reduce(total)
    if total[2, 0] <= 1:
        return None
    mean, square = total[:2] / total[2]
    return mean, (square - mean.square()).clamp_min(0)


@torch.no_grad()
def move_statistics(norm: nn.Module, mean: Tensor, var: Tensor) -> None:
    """Set running mean and variance, each (C,), and change γ and β so that eval mode computes what it did."""
    scale, shift = scale_and_shift(norm)
    norm.weight.copy_(scale * (var.double() + norm.eps).sqrt())
    norm.bias.copy_(shift + scale * mean.double())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)
