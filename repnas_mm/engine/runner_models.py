"""The copies of a model that a runner holds, without their wrappers."""

from mmengine.hooks import EMAHook
from mmengine.model import BaseAveragedModel, is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a distributed wrapper."""
    return model.module if is_model_wrapper(model) else model


def _averages(runner) -> list[BaseAveragedModel]:
    return [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]


def final_models(runner) -> list[nn.Module]:
    """All copies of the runner's model, the one whose weights count first: EMA's average, if there is one."""
    return [*(average.module for average in _averages(runner)), unwrap(runner.model)]


def renew_averages(runner) -> None:
    """Let EMA average the parameters that its model has now; it lists them once, before blocks may change form."""
    for average in _averages(runner):
        model = average.module
        average.avg_parameters = model.state_dict() if average.update_buffers else dict(model.named_parameters())
