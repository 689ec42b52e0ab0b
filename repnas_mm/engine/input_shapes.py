"""Shapes of a model's images, and of what arrives at its blocks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import nn

from ..search.block import is_block
from ..search.memory import Input


@contextmanager
def noting_inputs(blocks: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Input]]]:
    """Yield a dict, of the name of each block, to which every call of one inside the ``with`` adds its input."""
    arrived: dict[str, list[Input]] = {name: [] for name in blocks}
    with ExitStack() as hooks:
        for name, block in blocks.items():
            handle = block.register_forward_pre_hook(
                lambda _, inputs, calls=arrived[name]: calls.append((tuple(inputs[0].shape), inputs[0].dtype))
            )
            hooks.callback(handle.remove)
        yield arrived


def input_shapes(blocks: Mapping[str, nn.Module], forward: Callable) -> dict[str, list[Input]]:
    """Map each block's name to what arrives at it in one ``forward()`` of the model, call by call."""
    with noting_inputs(blocks) as arrived:
        forward()
    if missing := [name for name, calls in arrived.items() if not calls]:
        raise ValueError(
            f"Block '{missing[0]}' was not reached by a forward with mode='tensor', so that its memory cannot be "
            'measured; use num_branches instead of memory.'
        )
    return arrived


def image_shape(model: nn.Module) -> tuple[int, int, int]:
    """(C, H, W) of images to try ``model`` with: as many channels as its first convolution takes, 224×224."""
    convolutions = (m for m in model.modules() if isinstance(m, nn.Conv2d) or is_block(m))
    return getattr(next(convolutions, None), 'in_channels', 3), 224, 224
