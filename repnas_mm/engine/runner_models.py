"""The copies of a model that a runner holds, without their wrappers."""

from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a distributed wrapper."""
    return model.module if is_model_wrapper(model) else model


def final_models(runner) -> list[nn.Module]:
    """All copies of the runner's model, the one whose weights count first: EMA's average, if there is one."""
    averages = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
    return [*averages, unwrap(runner.model)]
