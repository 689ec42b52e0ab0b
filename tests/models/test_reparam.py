"""The (kernel, bias) algebra against the convolutions it stands for, in float64."""

import pytest
import torch
import torch.nn.functional as F

from repnas_mm.models import reparam


@pytest.mark.parametrize('size', [3, 5, 7])
@pytest.mark.parametrize('groups', [1, 2, 4])
def test_avg_pool_kernel_pools(size, groups):
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    kernel = reparam.avg_pool_kernel(4, size, groups, dtype=torch.float64)
    torch.testing.assert_close(F.conv2d(x, kernel, groups=groups), F.avg_pool2d(x, size, 1))
