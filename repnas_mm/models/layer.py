"""One operation of a branch."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Layer(NamedTuple):
    """An operation on feature maps, (N, C, H, W) -> (N, C', H', W')."""

    function: Callable[[Tensor], Tensor]
    #: True if it is so little work, a 1×1 convolution, that backward may do it again.
    cheap: bool = False
