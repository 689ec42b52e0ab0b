"""The protocol of a block: all that a search, fusing and export know of one. `find_blocks` finds those of a model."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol, TypeGuard

from mmengine.logging import print_log
from torch import Tensor, nn


class Block(Protocol):
    """A layer of parallel branches, which a search chooses from and which fuses into one convolution.

    It is an ``nn.Module`` besides. Its state dict has its active branches under the key ``active``, as long as there
    are others: one bool a candidate. Known by having `switch_to_subnet`; everything below is expected then.
    """

    #: Names of the branches that can exist in a block of this shape, in the order of the search space.
    candidates: tuple[str, ...]
    #: Names of those that the next forward computes; in a subnet, of all that are left. Not read of a fused block.
    active_branches: tuple[str, ...]
    #: (number of candidates,), the architecture parameters; None once the branches are fixed.
    alpha: nn.Parameter | None
    #: True if the branches use one kernel, False if each has its own.
    share_weights: bool
    #: True once the block is one convolution.
    deploy: bool

    @property
    def searchable(self) -> bool:
        """True if a search may choose among the branches: α is there and trains."""

    def set_active(self, active: Tensor | Iterable[bool], noise: Tensor | None = None, temperature: float = 1.0):
        """Compute only these candidates from the next forward on; with noise ζ (Eq. 11), α gets gradients (Eq. 12)."""

    def switch_to_subnet(self, branches: Iterable[str] | None = None) -> None:
        """Keep only these branches, by default the active ones, for good. In place."""

    def switch_to_deploy(self) -> None:
        """Become the one convolution that computes what the active branches do in eval mode. In place."""


class ConvolutionBlock(Block, Protocol):
    """A block in the place of an ordinary convolution, which it becomes when it is fused: then it is no block any more.

    Known by having `switch_to_plain`.
    """

    #: True if that convolution may have a bias.
    with_bias: bool

    def switch_to_plain(self) -> None:
        """Become the ordinary convolution of the main branch, on the same parameter, before any training. In place."""


def is_block(module: nn.Module) -> TypeGuard[Block]:
    """True for a module that follows the protocol `Block`, whatever its class."""
    return hasattr(module, 'switch_to_subnet')


def is_convolution_block(module: nn.Module) -> TypeGuard[ConvolutionBlock]:
    """True for a module that follows the protocol `ConvolutionBlock`, whatever its class."""
    return hasattr(module, 'switch_to_plain')


def find_blocks(model: nn.Module) -> dict[str, Block]:
    """Name -> block of every ODBB block in ``model``, in the model's own order, whatever form a block has.

    A convolution block that the model uses under several names becomes an ordinary convolution first, in place, and
    the log says so. Heads such as RTMDet's share a convolution between pyramid levels but not the norms behind it,
    because the levels' statistics differ; the BNs inside one shared block would mix them.
    """
    names = names_by_module(model)
    for module, used in names.items():
        if len(used) > 1 and is_convolution_block(module):
            log_shared(used)
            module.switch_to_plain()
    return {used[0]: module for module, used in names.items() if is_block(module)}


def names_by_module(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Module -> all names under which ``model`` uses it, in the model's own order."""
    names = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    return names


def log_shared(names: list[str]) -> None:
    """Log that the convolution with these names is left, or made, an ordinary one."""
    print_log(
        f"Convolution '{names[0]}' is used under {len(names)} names (such as '{names[1]}'), whose statistics differ; "
        'it stays plain.',
        'current',
    )
