"""The copies of a model that a runner holds, without their wrappers, and the blocks in them."""

from collections.abc import Mapping

import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseAveragedModel, is_model_wrapper
from torch import nn

from ..checks import quote
from ..search.block import Block, find_blocks


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a distributed wrapper."""
    return model.module if is_model_wrapper(model) else model


def check_unused_parameters(model: nn.Module) -> None:
    """Raise ValueError if ``model`` is a distributed wrapper that needs a gradient of every parameter."""
    if is_model_wrapper(model) and not getattr(model, 'find_unused_parameters', True):
        raise ValueError(
            'Dropped branches have no gradients, on which DistributedDataParallel waits for ever: set '
            'find_unused_parameters=True at the top of the config.'
        )


def replace_model(runner, model: nn.Module) -> None:
    """Let the runner, or its distributed wrapper, compute with ``model``."""
    if is_model_wrapper(runner.model):
        runner.model.module = model
    else:
        runner.model = model


def _averages(runner) -> list[BaseAveragedModel]:
    hooks = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    for hook in hooks:
        if not hasattr(hook, 'ema_model'):  # it makes its copy of the model in before_run
            raise ValueError(
                f'EMAHook comes after the hooks of repnas_mm with its priority {quote(hook.priority)}, and must come '
                "before them, since they set its copy's branches; remove the priority, which is then 'NORMAL'."
            )
    return [hook.ema_model for hook in hooks]


@torch.no_grad()
def copy_to_waiting_averages(runner, alphas: Mapping[str, nn.Parameter]) -> None:
    """Give α to every average that has not begun: until then it is to equal the model, of which α is stepped last."""
    for hook in runner.hooks:
        if isinstance(hook, EMAHook) and not hook._ema_started(runner):
            for name, alpha in alphas.items():
                hook.ema_model.module.get_submodule(name).alpha.copy_(alpha)


def final_models(runner) -> list[nn.Module]:
    """All copies of the runner's model, the one whose weights count first: EMA's average, if there is one."""
    return [*(average.module for average in _averages(runner)), unwrap(runner.model)]


def find_blocks_of_run(runner) -> dict[str, Block]:
    """`find_blocks` of the runner's model; EMA's copies get the same form, whatever that changes."""
    *averages, model = final_models(runner)
    for average in averages:
        find_blocks(average)
    return find_blocks(model)


def renew_averages(runner) -> None:
    """Let EMA average the parameters that its model has now; it lists them once, before blocks may change form."""
    for average in _averages(runner):
        model = average.module
        average.avg_parameters = model.state_dict() if average.update_buffers else dict(model.named_parameters())
