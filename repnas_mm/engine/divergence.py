"""Numbers gone bad: what is not finite, and where it began."""

from collections.abc import Mapping

from torch import Tensor, nn

from ..search.space import find_blocks
from .last_checkpoint import find_last_checkpoint


def check_finite(model: nn.Module, losses: Mapping[str, Tensor], work_dir: str, scaled: bool = False) -> None:
    """Stop a training whose loss, weights or BN statistics are no numbers any more.

    Args:
        model: The one that trains.
        losses: What the last iteration logged.
        work_dir: Whose newest checkpoint the message names.
        scaled: Whether a loss scaler skips steps with bad gradients; then a bad loss may pass.

    Raises:
        FloatingPointError: one sentence that names what, where, and the checkpoint to go back to.
    """
    tensors = {name: t for name, t in model.state_dict().items() if t.is_floating_point()}
    where = _begin(model, tensors)
    loss = next((name for name, value in losses.items() if 'loss' in name and not _is_finite(value)), None)
    if where is None and (loss is None or scaled):
        return
    bad = [f"'{loss}' is {float(losses[loss].detach().mean())}"] if loss else []
    bad += [f'{where} is not finite'] if where else []
    last = find_last_checkpoint(work_dir)
    raise FloatingPointError(
        f'The training diverged: {" and ".join(bad)}; {f"resume from {last!r}" if last else "start again"} with a '
        'smaller learning rate or with clip_grad.'
    )


def _begin(model: nn.Module, tensors: Mapping[str, Tensor]) -> str | None:
    """Where numbers first went bad, as far as what is left of them shows; None if all are finite."""
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if not bad:
        return None
    # bad numbers go forward through the statistics of later layers, and backward into the weights of earlier ones
    statistics = [name for name in bad if name.endswith(('running_mean', 'running_var'))]
    name = statistics[0] if statistics else bad[-1]
    return _describe(find_blocks(model), name, tensors[name])


def _describe(blocks: Mapping[str, nn.Module], name: str, tensor: Tensor) -> str:
    """A tensor of the model in words: which branch of which block it belongs to."""
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
