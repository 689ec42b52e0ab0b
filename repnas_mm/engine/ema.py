"""Where the weights to keep are when MMEngine's EMAHook averages them."""

from mmengine.hooks import EMAHook
from torch import nn

from .checkpoint import unwrap


def final_models(runner) -> list[nn.Module]:
    """All copies of the runner's model, the one whose weights count first: EMA's average, if there is one."""
    averages = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
    return [*averages, unwrap(runner.model)]
