"""Branches of a whole network leave during a forward: each block absorbs them in front of its own."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def absorbing(blocks: Mapping[str, nn.Module], kept: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the first forward of each block inside the ``with`` absorb all its active branches but those kept.

    Behind it only these are active, in a block without a forward too.

    Args:
        blocks: Name -> block in search form.
        kept: Name -> one bool a candidate.
    """
    handles: dict[str, RemovableHandle] = {}
    for name, mask in kept.items():
        stays = {branch for branch, stays in zip(blocks[name].candidates, mask.tolist()) if stays}
        leaving = [branch for branch in blocks[name].active_branches if branch not in stays]

        def absorb(block, inputs, name=name, leaving=leaving):
            handles[name].remove()
            block.absorb(leaving, inputs[0])

        if leaving:
            handles[name] = blocks[name].register_forward_pre_hook(absorb)
    try:
        yield
    finally:
        for handle in handles.values():
            handle.remove()
        for name, mask in kept.items():
            blocks[name].set_active(mask)


def absorb_in_next_forward(model: nn.Module, blocks: Mapping[str, nn.Module], kept: Mapping[str, Tensor]) -> None:
    """Let the next forward of ``model`` in training mode be one inside `absorbing`."""

    def begin(*_) -> None:
        if model.training:
            before.remove()
            stack = ExitStack()
            stack.enter_context(absorbing(blocks, kept))
            stack.callback(model.register_forward_hook(lambda *_: stack.close()).remove)

    before = model.register_forward_pre_hook(begin)
