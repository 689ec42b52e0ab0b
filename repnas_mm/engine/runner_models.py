"""The copies of a model that a runner holds, without their wrappers, and the blocks in them."""

from collections.abc import Container, Mapping

import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseAveragedModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from torch import nn

from ..checks import quote
from ..search.block import Block, find_blocks
from ..search.copies import find_copied_networks, find_copies


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
def copy_to_waiting_averages(runner, blocks: Mapping[str, Block]) -> None:
    """Give α to every average that has not begun: until then it is to equal the model, of which α is stepped last."""
    for hook in runner.hooks:
        if isinstance(hook, EMAHook) and not hook._ema_started(runner):
            for name, block in blocks.items():
                hook.ema_model.module.get_submodule(name).alpha.copy_(block.alpha)


def final_models(runner) -> list[nn.Module]:
    """All copies of the runner's model, the one whose weights count first: EMA's average, if there is one."""
    return [*(average.module for average in _averages(runner)), unwrap(runner.model)]


def find_blocks_of_run(runner) -> dict[str, Block]:
    """`find_blocks` of the runner's model; EMA's copies get the same form, whatever that changes."""
    *averages, model = final_models(runner)
    for average in averages:
        find_blocks(average)
    return find_blocks(model)


def find_followers(runner, searched: Container[str]) -> dict[str, tuple[str, Block]]:
    """Name of each block that copies a searched one -> (that one's name, the copy); the log names the networks."""
    model = unwrap(runner.model)
    for copy, twin in find_copied_networks(model).items():
        runner.logger.info(f"'{copy}' is a copy of '{twin or 'the model'}': its blocks follow those of the search.")
    blocks = find_blocks(model)
    return {copy: (twin, blocks[copy]) for copy, twin in find_copies(model).items() if twin in searched}


def renew_averages(runner) -> None:
    """Let averages of the model, those inside it too, average the parameters that there are now.

    They list them once, before blocks may change form.
    """
    inside = [module for model in final_models(runner) for module in model.modules()]
    for average in [*_averages(runner), *(module for module in inside if isinstance(module, BaseAveragedModel))]:
        model = average.module
        average.avg_parameters = model.state_dict() if average.update_buffers else dict(model.named_parameters())


def warn_of_untrained(blocks: Mapping[str, Block], runner) -> None:
    """Warn if an optimizer constructor has left a parameter of a block, other than α, to no optimizer."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    groups = [group for each in wrappers for group in each.optimizer.param_groups]
    trained = {id(parameter) for group in groups for parameter in group['params']}
    missing = [
        f'{name}.{key}'
        for name, block in blocks.items()
        for key, parameter in block.named_parameters()  # type: ignore[attr-defined]
        if parameter.requires_grad and key != 'alpha' and id(parameter) not in trained
    ]
    if missing:
        runner.logger.warning(
            f"{len(missing)} parameters of blocks, such as '{missing[0]}', are in no group of the optimizer and will "
            'not train; use a constructor of optim_wrapper that takes all parameters, or freeze these blocks.'
        )
