"""A multi-branch block as one would first write it, to measure ours against."""

from collections.abc import Iterable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repnas_mm.models import ODBBlock
from repnas_mm.models.norm import border_value
from repnas_mm.search import find_blocks


class NaiveBlock(nn.Module):
    """``act(sum_j z_j * branch_j(x))`` from modules of its own for every branch, with z = 1 times its feature map.

    It has the candidates, α and activation of ``block``, an `ODBBlock` in search form without groups.
    """

    def __init__(self, block: ODBBlock):
        super().__init__()
        self.candidates, self.act = block.candidates, deepcopy(block.act)
        self.alpha = nn.Parameter(block.alpha.detach().clone())
        shape = (block.in_channels, block.out_channels, block.kernel_size, block.stride)
        self.branches = nn.ModuleDict({name: _branch(name, *shape) for name in self.candidates})
        self.set_active([True] * len(self.candidates))

    def set_active(self, active: Iterable[bool]) -> None:
        """Choose the branches of the next forwards, as `ODBBlock.set_active` does."""
        self.active = [bool(kept) for kept in active]
        self.gates: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.gates = z = torch.ones_like(self.alpha, requires_grad=True)
        kept = [name for name, active in zip(self.candidates, self.active) if active]
        return self.act(sum(z[self.candidates.index(name)] * self.branches[name](x) for name in kept))

    def gate_gradients(self) -> Tensor:
        """Gradient of the loss for z, of the last forward, as `ODBBlock.gate_gradients` returns it."""
        assert self.gates is not None and self.gates.grad is not None
        return self.gates.grad


def naive(backbone: nn.Module) -> nn.Module:
    """A copy of ``backbone`` with a `NaiveBlock` for every ODBB block."""
    backbone = deepcopy(backbone)
    for name, block in find_blocks(backbone).items():
        backbone.set_submodule(name, NaiveBlock(block))
    return backbone


def naive_blocks(backbone: nn.Module) -> dict[str, NaiveBlock]:
    """Name -> block."""
    return {name: block for name, block in backbone.named_modules() if isinstance(block, NaiveBlock)}


class _BorderPad(nn.Module):
    """A BN, padded with its answer to a zero pixel."""

    def __init__(self, channels: int, padding: int):
        super().__init__()
        self.norm, self.padding = nn.BatchNorm2d(channels), padding

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.norm(x), (self.padding,) * 4)
        border = border_value(self.norm).view(1, -1, 1, 1)
        p = self.padding
        for side in (x[:, :, :p], x[:, :, -p:], x[:, :, :, :p], x[:, :, :, -p:]):
            side.copy_(border.expand_as(side))
        return x


class _AvgPool(nn.Module):
    """Average pooling; on the CPU, as in our block, a depth-wise convolution, which takes a tenth of the time there."""

    def __init__(self, channels: int, kernel_size: int, stride: int):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        kernel = torch.full((channels, 1, kernel_size, kernel_size), 1 / kernel_size**2)
        self.register_buffer('kernel', kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == 'cpu':
            return F.conv2d(x, self.kernel, stride=self.stride, groups=x.shape[1])
        return F.avg_pool2d(x, self.kernel_size, self.stride)


def _branch(name: str, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Module:
    k, half = kernel_size, kernel_size // 2
    linear = {
        '1x1': lambda: [nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)],
        'kxk': lambda: [nn.Conv2d(in_channels, out_channels, k, stride, half, bias=False)],
        '1x1_kxk': lambda: [
            nn.Conv2d(in_channels, in_channels, 1, bias=False),
            _BorderPad(in_channels, half),
            nn.Conv2d(in_channels, out_channels, k, stride, bias=False),
        ],
        '1x1_avg': lambda: [
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            _BorderPad(out_channels, half),
            _AvgPool(out_channels, k, stride),
        ],
        '1xk': lambda: [nn.Conv2d(in_channels, out_channels, (1, k), stride, (0, half), bias=False)],
        'kx1': lambda: [nn.Conv2d(in_channels, out_channels, (k, 1), stride, (half, 0), bias=False)],
        'skip': lambda: [],
    }
    return nn.Sequential(*linear[name](), nn.BatchNorm2d(out_channels))
