"""A slow and obvious block, float64, written from DESIGN section 2 and the paper's Eq. 5 without calling repnas_mm.

It reads names, shapes and values out of an `ODBBlock`, and computes every branch by hand.
"""

import torch
import torch.nn.functional as F
from torch.nn.modules.utils import _pair

EPS, MOMENTUM = 1e-5, 0.1


def eq5_crop(kernel, height, width):
    """F[:, :, LH:RH, LW:RW] of Eq. 5, both ends inclusive."""
    k = kernel.shape[2]
    rows = [i for i in range(k) if k // 2 - height // 2 <= i <= k // 2 + height // 2]
    cols = [j for j in range(k) if k // 2 - width // 2 <= j <= k // 2 + width // 2]
    return torch.stack([torch.stack([kernel[:, :, i, j] for j in cols], -1) for i in rows], -2)


class Reference:
    """Copies of a block's parameters (leaves, with gradients of their own) and BN statistics, under the block's names.

    Args:
        padding: Zero pixels (left, right, top, bottom) for the K×K window. Defaults to dilation * (K // 2)
            everywhere.

    Attributes:
        parameters: Name -> parameter; ``.grad`` is filled by backward.
        statistics: Name -> running statistics, updated by a forward in training mode.
    """

    def __init__(self, block, padding=None):
        self.in_channels, self.out_channels = block.in_channels, block.out_channels
        self.k, self.stride, self.groups, self.shared = (
            block.kernel_size,
            block.stride,
            block.groups,
            block.share_weights,
        )
        (self.dilation,) = {*_pair(block.dilation)}
        self.padding = (self.k // 2 * self.dilation,) * 4 if padding is None else padding
        self.parameters = {n: p.detach().double().clone().requires_grad_() for n, p in block.named_parameters()}
        self.statistics = {n: b.double().clone() for n, b in block.named_buffers() if 'running' in n}

    def branches(self, x, names, training):
        """Branch name -> its output, last BN included."""
        return {name: self.norm(f'{name}.norm', self.linear(name, x, training), training) for name in names}

    def linear(self, name, x, training):
        k, shape = self.k, dict(stride=self.stride, dilation=self.dilation, groups=self.groups)
        groups = self.groups
        zeros = torch.zeros(self.in_channels, dtype=torch.float64)
        if name == 'skip':
            return self.under_centers(self.pad(x, zeros), 1, 1)
        if name in ('1x1', 'kxk', '1xk', 'kx1'):
            height, width = (k if side == 'k' else 1 for side in name.split('x'))
            seen = self.under_centers(self.pad(x, zeros), height, width)
            return F.conv2d(seen, self.kernel(name, height, width), **shape)
        if name == '1x1_avg':
            y = F.conv2d(x, self.kernel(name, 1, 1), groups=groups)
            return self.average_pool(self.pad(self.inner_norm(name, y, training), self.border(name)))
        if name == '1x1_kxk':
            y = F.conv2d(x, self.first_kernel(), groups=groups)
            y = self.pad(self.inner_norm(name, y, training), self.border(name))
            return F.conv2d(y, self.kernel(name, k, k), **shape)
        raise KeyError(name)

    def under_centers(self, padded, height, width):
        """What a ``height`` × ``width`` window sees of the padded image when its center moves as the K×K one's does."""
        rows, cols = (self.dilation * (self.k - n) // 2 for n in (height, width))
        return padded[:, :, rows : padded.shape[2] - rows, cols : padded.shape[3] - cols]

    def kernel(self, name, height, width):
        """The branch's own kernel, or Eq. 5's crop of the shared one."""
        return (
            eq5_crop(self.parameters['weight'], height, width)
            if self.shared
            else self.parameters[f'branches.{name}.weight']
        )

    def first_kernel(self):
        """The in -> in 1×1 of `1x1_kxk`: the identity plus the shared kernel's center or plus its own parameter."""
        width = self.in_channels // self.groups
        identity = torch.zeros(self.in_channels, width, 1, 1, dtype=torch.float64)
        for channel in range(self.in_channels):
            identity[channel, channel % width] = 1
        if self.shared and self.in_channels == self.out_channels:
            return identity + eq5_crop(self.parameters['weight'], 1, 1)
        return identity + self.parameters['branches.1x1_kxk.delta.weight']

    def norm(self, name, y, training):
        """BN by hand: biased variance normalizes, unbiased variance goes to the running statistics."""
        gamma, beta, mean, var = self.bn(name)
        if training:
            values = y.transpose(0, 1).flatten(1)
            n = values.shape[1]
            mean = values.sum(1) / n
            var = ((values - mean[:, None]) ** 2).sum(1) / n
            for key, new in (('running_mean', mean), ('running_var', var * n / (n - 1))):
                key = f'branches.{name}.{key}'
                self.statistics[key] = (1 - MOMENTUM) * self.statistics[key] + MOMENTUM * new.detach()
        mean, var, gamma, beta = (t[None, :, None, None] for t in (mean, var, gamma, beta))
        return gamma * (y - mean) / (var + EPS).sqrt() + beta

    def inner_norm(self, name, y, training):
        return self.norm(f'{name}.inner_norm', y, training)

    def bn(self, name):
        statistics = (self.statistics[f'branches.{name}.running_{s}'] for s in ('mean', 'var'))
        return self.parameters[f'branches.{name}.weight'], self.parameters[f'branches.{name}.bias'], *statistics

    def border(self, name):
        """The inner BN's answer to zero, with the running statistics as they stand now: a value a channel."""
        gamma, beta, mean, var = (t.detach() for t in self.bn(f'{name}.inner_norm'))
        return beta - mean * gamma / (var + EPS).sqrt()

    def pad(self, y, border):
        """The K×K window's padding, filled with ``border``."""
        (n, c, h, w), (left, right, top, bottom) = y.shape, self.padding
        padded = torch.empty(n, c, top + h + bottom, left + w + right, dtype=torch.float64)
        for channel in range(c):
            padded[:, channel] = border[channel]
        padded[:, :, top : top + h, left : left + w] = y
        return padded

    def average_pool(self, y):
        """The mean over all K² shifts of the window."""
        k, s, shifts = self.k, self.stride, range(0, self.k * self.dilation, self.dilation)
        h, w = (n - shifts[-1] for n in y.shape[2:])
        return sum(y[:, :, i : i + h : s, j : j + w : s] for i in shifts for j in shifts) / k**2
