"""Groups of an optimizer's parameters that differ in nothing, made one."""

from collections.abc import Mapping
from typing import Any

from mmengine.optim import _ParamScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

#: Attributes of a scheduler that hold a value for each group
PER_GROUP = {'base_values', '_last_value', 'min_values'}


def made_by_default(runner) -> Optimizer | None:
    """The runner's optimizer if MMEngine's own constructor made its groups, in which no one looks for one by number."""
    constructor = (runner.cfg.get('optim_wrapper') or {}).get('constructor', 'DefaultOptimWrapperConstructor')
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    return optimizer if isinstance(optimizer, Optimizer) and constructor == 'DefaultOptimWrapperConstructor' else None


def merge_groups(runner) -> None:
    """Put all parameters with the same settings into one group, in place, before the optimizer has any state.

    With ``paramwise_cfg`` MMEngine gives each parameter a group of its own. A search has a thousand, and an optimizer
    and its schedulers then spend more time on groups than on numbers. A parameter's update stays the same.
    """
    optimizer = made_by_default(runner)
    if optimizer is None or hasattr(optimizer, 'consolidate_state_dict'):  # ZeRO keeps groups by rank besides
        return
    groups = optimizer.param_groups
    schedulers = [each for each in runner.param_schedulers or () if isinstance(each, _ParamScheduler)]
    first: dict[tuple, int] = {}
    twins = [first.setdefault(_settings(group), i) for i, group in enumerate(groups)]
    kept = sorted(first.values())
    values = [_lists(scheduler, len(scheduler.optimizer.param_groups)) for scheduler in schedulers]
    if len(kept) == len(groups) or any(lists.keys() - PER_GROUP for lists in values):
        return
    for lists in values:
        for value in lists.values():  # those of the wrapper have one more, for the log
            value[:] = [value[i] for i in (*kept, *range(len(groups), len(value)))]
    for i, twin in enumerate(twins):
        if i != twin:
            groups[twin]['params'] += groups[i]['params']
    groups[:] = [groups[i] for i in kept]


def check_same_groups(checkpoint: Mapping, model: nn.Module, optimizer: Optimizer) -> None:
    """Raise ValueError if the optimizer of the checkpoint to resume from has other groups than this one.

    A checkpoint that lacks parameters of ``model`` is let through: loading these says what does not fit.
    """
    if any(name not in checkpoint['state_dict'] for name, _ in model.named_parameters()):
        return
    theirs = [len(group['params']) for group in checkpoint.get('optimizer', {}).get('param_groups', ())]
    ours = [len(group['params']) for group in optimizer.param_groups]
    if theirs and theirs != ours:
        raise ValueError(
            f"The optimizer of the checkpoint has groups of {theirs[:5]} parameters, this run's has {ours[:5]}; resume "
            'with the paramwise_cfg and model that it came from, or start from its weights with load_from.'
        )


def _settings(group: dict[str, Any]) -> tuple:
    return tuple((k, id(v) if isinstance(v, Tensor) else repr(v)) for k, v in group.items() if k != 'params')


def _lists(scheduler, length: int) -> dict[str, list]:
    return {k: v for k, v in vars(scheduler).items() if isinstance(v, list) and len(v) == length}
