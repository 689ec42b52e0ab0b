"""The protocol of a block: all that a search, fusing and export know of one. `find_blocks` finds those of a model."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from inspect import signature
from typing import NamedTuple, Protocol, TypeGuard

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
        """True if a search may choose among the branches: α is there, and nothing that it learns from is frozen."""

    def set_active(self, active: Tensor | Iterable[bool]) -> None:
        """Compute only these candidates from the next forward on; one bool each."""

    def gate_gradients(self) -> Tensor:
        """Gradient of the loss for a factor of 1 at each candidate, (number of candidates,); 0 where it is not active.

        Asked for after backward and before the optimizer's step.
        """

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

    A convolution block that `find_plain` names becomes an ordinary convolution first, in place, and the log says so.
    """
    names = names_by_module(model)
    blocks = [module for module in names if is_convolution_block(module)]
    for block, reason in log_plain(names, blocks).items():
        block.switch_to_plain()
        # with which stock RepVGG would make its fused convolution a block again
        if reason.layer is not None and getattr(reason.layer, 'conv_cfg', None):
            reason.layer.conv_cfg = None
    return {used[0]: module for module, used in names.items() if is_block(module)}


def names_by_module(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Module -> all names under which ``model`` uses it, in the model's own order."""
    names = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    return names


class Plain(NamedTuple):
    """Reason why a convolution must be an ordinary one."""

    #: In a word or two, alike for all that have the same reason
    kind: str
    #: What it does, as the rest of a sentence
    why: str
    #: The layer that is the reason
    layer: nn.Module | None = None


def log_plain(names: Mapping[nn.Module, list[str]], convolutions: Iterable[nn.Module]) -> dict[nn.Module, Plain]:
    """`find_plain`, and log what it finds."""
    found = find_plain(names, convolutions)
    for module, reason in found.items():
        print_log(f"Convolution '{names[module][0]}' {reason.why}; it stays plain.", 'current')
    return found


def find_plain(names: Mapping[nn.Module, list[str]], convolutions: Iterable[nn.Module]) -> dict[nn.Module, Plain]:
    """Find which of these ``convolutions`` must be ordinary ones, and why.

    - One used under several names: heads such as RTMDet's share a convolution between pyramid levels but not the norms
      behind it, because the levels' statistics differ; the BNs inside one shared block would mix them.
    - One inside a re-parameterizable layer of other code, which is about to read its kernel.
    - One that gives a deformable convolution its offsets, zero at first and with a learning rate of its own.
    - One whose layer starts it in its own way: the bias of a detector's classification, which makes everything
      background at first.

    Args:
        names: Of `names_by_module` for the whole model.
        convolutions: Ordinary ones or blocks.
    """
    inside: dict[nn.Module, Plain] = {}
    layers = [module for module in names if _is_reparameterizable(module)]
    for layer in layers:
        # a whole network may have such a method, too, and pass it on
        if not any(other is not layer and other in layers for other in layer.modules()):
            what = type(layer).__name__
            why = f"is inside '{names[layer][0]}', a {what} with kernels of its own to fuse"
            inside |= {module: Plain(f'inside a {what}', why, layer) for module in layer.modules()}
    offsets = 'offsets of a deformable convolution'
    for layer in names:
        if is_deformable(layer):
            why = f"gives the offsets of '{names[layer][0]}', a deformable convolution"
            inside |= {module: Plain(offsets, why) for module in layer.modules() if module is not layer}
        for name in _started_apart(layer):
            why = f"starts as '{names[layer][0]}' says in its init_cfg, which a block would not"
            inside[layer.get_submodule(name)] = Plain('with a start of its own', why)
    found = {}
    for module in convolutions:
        used = names[module]
        if len(used) > 1:
            why = f"is used under {len(used)} names (such as '{used[1]}'), whose statistics differ"
            found[module] = Plain('shared by layers with norms of their own', why)
        elif module in inside:
            found[module] = inside[module]
        elif 'offset' in used[0].rsplit('.', 1)[-1]:
            found[module] = Plain(offsets, f'gives the {offsets}')
    return found


def is_deformable(module: nn.Module) -> bool:
    """True for a deformable convolution, with or without the layer that gives its offsets."""
    return any('DeformConv' in base.__name__ for base in type(module).__mro__)


def _started_apart(layer: nn.Module) -> list[str]:
    """Names of the modules in a layer that its ``init_cfg`` starts in another way than the rest."""
    cfgs = getattr(layer, 'init_cfg', None) or ()
    overrides = [cfg.get('override') or () for cfg in ([cfgs] if isinstance(cfgs, Mapping) else cfgs)]
    flat = [o for override in overrides for o in ([override] if isinstance(override, Mapping) else override)]
    return [o['name'] for o in flat if o.get('name') in layer._modules]


def _is_reparameterizable(module: nn.Module) -> bool:
    """True for a layer of other code that computes one convolution out of those inside it, reading their kernels."""
    methods = ('get_equivalent_kernel_bias', 'get_equivalent_parameters', 'reparameterize', 'fuse')
    found = [getattr(type(module), name, None) for name in methods]
    return not is_block(module) and any(callable(f) and len(signature(f).parameters) == 1 for f in found)
