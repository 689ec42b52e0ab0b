"""A BN behind a 1×1 convolution without the feature map between the two: its statistics follow from the input's.

With μ and C the mean and covariance over the pixels of x, W·x has the mean W·μ and the variances diag(W·C·Wᵀ). Where a
stride leaves a quarter of the pixels or fewer, this spares the one large feature map of the block.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import without_autocast

#: Mean (C,) and covariance (groups, C // groups, C // groups) over the pixels of a batch, and how many they are
Moments = tuple[Tensor, Tensor, int]


def input_moments(x: Tensor, groups: int) -> Moments:
    """Moments of (N, C, H, W), in float32 or better, with gradients; only ``x`` itself is saved for backward."""
    with without_autocast(x.device):
        return *_Moments.apply(x, groups), x[:, 0].numel()


class _Moments(torch.autograd.Function):
    """Mean and covariance; autograd's own way would save and multiply centered copies of the input."""

    @staticmethod
    def forward(ctx, x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        mean = x.mean((0, 2, 3), dtype=dtype)
        ctx.save_for_backward(x, mean)
        # centered first: E[x²] - E[x]² would lose the digits that a large mean takes
        rows = x.to(dtype).movedim(1, 0).flatten(1) - mean.unsqueeze(1)
        rows = rows.view(groups, -1, rows.shape[1])
        return mean, rows @ rows.mT / rows.shape[2]

    @staticmethod
    def backward(ctx, mean_grad: Tensor, covariance_grad: Tensor) -> tuple[Tensor, None]:
        x, mean = ctx.saved_tensors
        groups, width, _ = covariance_grad.shape
        # (dC + dCᵀ) (x - mean) / n + dmean / n, as a 1×1 convolution
        kernel = (covariance_grad + covariance_grad.mT) / x[:, 0].numel()
        bias = mean_grad / x[:, 0].numel() - (kernel @ mean.view(groups, width, 1)).flatten()
        return F.conv2d(x.to(kernel.dtype), kernel.view(-1, width, 1, 1), bias, groups=groups).to(x.dtype), None


def norm_from_moments(
    norm: nn.BatchNorm2d, kernel: Tensor, moments: Moments | None, update_stats: bool, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scale and shift, each (C,), with gradients, by which ``norm`` maps the output of a 1×1 convolution.

    Args:
        norm: Of C channels, in training or eval mode.
        kernel: The 1×1 convolution's, (C, in // groups, 1, 1).
        moments: Of the convolution's input; None for a norm in eval mode, which uses its running statistics.
        update_stats: True moves the running statistics as a forward in training mode does.
        bias: (C,), the convolution's, in training mode: only the running mean depends on it, and it is not part of
            the output that scale and shift apply to.
    """
    if moments is None:
        mean, var = norm.running_mean, norm.running_var
    else:
        mean, covariance, count = moments
        with without_autocast(kernel.device):
            weight = kernel.flatten(1).to(covariance.dtype).view(len(covariance), -1, kernel.shape[1])
            mean = (weight @ mean.view(len(weight), -1, 1)).flatten()
            var = ((weight @ covariance) * weight).sum(2).flatten()
        if update_stats:
            center = mean.detach() if bias is None else mean.detach() + bias
            _move_running(norm, center, var.detach() * (count / max(count - 1, 1)))
    scale = norm.weight * (var + norm.eps).rsqrt()
    return scale, norm.bias - scale * mean


def _move_running(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor) -> None:
    """One step of the running averages, as torch's BN takes it."""
    norm.num_batches_tracked += 1
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(var.to(norm.running_var.dtype), share)
