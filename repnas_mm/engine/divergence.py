"""Numbers gone bad: the tensors of a model that are not finite, and the one where that began, in words."""

from collections.abc import Mapping

from torch import Tensor, nn

from ..search.block import Block, find_blocks


def find_divergence(model: nn.Module, losses: Mapping[str, Tensor], scaled: bool = False) -> str | None:
    """Describe what of the model's state and of its losses is NaN or infinite; None if all is well.

    Args:
        model: The one that trains.
        losses: Logged values of the last iteration.
        scaled: True if a loss scaler skips steps with bad gradients; then a bad loss by itself may pass.
    """
    where = _find_start(model)
    loss = next((name for name, value in losses.items() if 'loss' in name and not _is_finite(value)), None)
    if where is None and (loss is None or scaled):
        return None
    bad = [f"'{loss}' is {float(losses[loss].detach().mean())}"] if loss else []
    bad += [f'{where} is not finite'] if where else []
    return ' and '.join(bad)


def _find_start(model: nn.Module) -> str | None:
    """Name where numbers first went bad, as far as what is left of them shows; None if all are finite."""
    tensors = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if not bad:
        return None
    # bad numbers go forward through the statistics of later layers, and backward into the weights of earlier ones
    statistics = [name for name in bad if name.endswith(('running_mean', 'running_var'))]
    name = statistics[0] if statistics else bad[-1]
    return _describe(find_blocks(model), name, tensors[name])


def _describe(blocks: Mapping[str, Block], name: str, tensor: Tensor) -> str:
    """Put a tensor of the model into words: the block and the branch that it belongs to."""
    block = next((block for block in blocks if name.startswith(f'{block}.')), None)
    if block is None:
        return f"'{name}'"
    rest = name.removeprefix(f'{block}.')
    if rest == 'alpha':
        return (
            f"alpha of branch '{blocks[block].candidates[int((~tensor.isfinite()).nonzero()[0])]}' in block '{block}'"
        )
    if rest.startswith('branches.'):
        branch, rest = rest.removeprefix('branches.').split('.', 1)
        return f"{rest} of branch '{branch}' in block '{block}'"
    return f"{rest} of block '{block}'"


def _is_finite(value) -> bool:
    return not isinstance(value, Tensor) or bool(value.isfinite().all())
