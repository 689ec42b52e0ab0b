"""Training steps of a search that a config describes, and their seconds."""

from collections.abc import Callable
from functools import partial

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain import get_model
from mmpretrain.structures import DataSample

from measuring.timing import medians
from measuring.training_cost import configured_search, search_phases
from repnas_mm.engine.alpha_optimizer import AlphaOptimizer
from repnas_mm.engine.step_cost import image_shape

#: The optimizer of α in place of the hook's own, which asks for the length of the search; it takes about as long
ALPHA_OPTIMIZER = dict(type='Adam', lr=1e-4)


def step_seconds(cfg: Config, device: torch.device | str = 'cpu') -> float:
    """Seconds of one training step of a classifier's search, medians weighted by the parts of the schedule."""
    return sum(part * medians({'step': step})['step'] for part, step in search_steps(cfg, device))


def search_steps(cfg: Config, device: torch.device | str = 'cpu') -> list[tuple[float, Callable[[], None]]]:
    """(Part of the schedule, one step of it to call again and again), as `search_phases` tells them.

    A step chooses branches, runs forward, loss and backward on random images of the config's size and batch size, and
    steps the weights, and α where it learns. It loads no data.

    Args:
        cfg: With RepNASHook.
        device: Where the model is.

    Raises:
        ValueError: if the training pipeline does not tell the size of the images.
    """
    batch = _random_batch(cfg)
    model = get_model(cfg, device=device).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    few = batch['inputs'][:2].to(device=device, dtype=torch.float32)
    configured = configured_search(cfg, model, few, len(batch['inputs']))
    assert configured is not None, 'a search has a RepNASHook'
    AlphaOptimizer(configured[1], optim_wrapper.optimizer, ALPHA_OPTIMIZER)

    def step(choose: Callable[[], None]) -> None:
        choose()
        model.train_step(batch, optim_wrapper)

    return [(part, partial(step, choose)) for part, (choose,) in search_phases(cfg, *configured)]


def _random_batch(cfg: Config) -> dict:
    """A batch as the training's loader would give it, with noise for images."""
    shape = image_shape(cfg)
    return dict(
        inputs=torch.randint(256, shape, dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(i % cfg.model.head.num_classes) for i in range(shape[0])],
    )
