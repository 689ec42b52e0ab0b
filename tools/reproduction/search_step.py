"""One training step of a search that a config describes, and its seconds."""

from collections.abc import Callable

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain import get_model
from mmpretrain.structures import DataSample

from measuring.timing import medians
from repnas_mm.engine.alpha_optimizer import AlphaOptimizer
from repnas_mm.engine.hooks import RepNASHook
from repnas_mm.engine.step_cost import image_shape
from repnas_mm.search import BranchSearch, find_blocks


def step_seconds(cfg: Config, device: torch.device | str = 'cpu') -> float:
    """Median seconds of one training step of the search that a classifier's config describes (`search_step`)."""
    return medians({'step': search_step(cfg, device)[0]})['step']


def search_step(cfg: Config, device: torch.device | str = 'cpu') -> tuple[Callable[[], None], BranchSearch]:
    """One step of Algorithm 1, to call again and again, and the search it is a step of.

    It samples branches, runs forward, loss and backward on random images of the config's size and batch size, and steps
    the weights and α. It loads no data.

    Args:
        cfg: With RepNASHook and its ``num_branches``.
        device: Where the model is.

    Raises:
        ValueError: if the training pipeline does not tell the size of the images.
    """
    settings = next(dict(hook) for hook in cfg.custom_hooks if hook['type'] == 'RepNASHook')
    settings.pop('type')
    hook = RepNASHook(**settings)
    model = get_model(cfg, device=device).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    search = BranchSearch(find_blocks(model), hook.num_branches, hook.memory)
    AlphaOptimizer(search, optim_wrapper.optimizer, hook.alpha_optimizer_cfg)
    batch = _random_batch(cfg)

    def step() -> None:
        search.apply(*search.sample())
        model.train_step(batch, optim_wrapper)

    return step, search


def _random_batch(cfg: Config) -> dict:
    """A batch as the training's loader would give it, with noise for images."""
    shape = image_shape(cfg)
    return dict(
        inputs=torch.randint(256, shape, dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(i % cfg.model.head.num_classes) for i in range(shape[0])],
    )
