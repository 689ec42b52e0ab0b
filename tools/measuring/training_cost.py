"""Memory, operations and steps that a training config needs: counted from its model, without data and without a GPU."""

import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from repnas_mm.engine import RepNASHook
from repnas_mm.engine.input_shapes import input_shapes
from repnas_mm.engine.step_cost import forward_sum, image_shape
from repnas_mm.search import BranchSearch, find_blocks
from repnas_mm.search.memory import bytes_saved_for_backward

#: Training images, by class of the data set: those that need no look at the files, and what the public set has where
#: nothing is downloaded yet
SAME_FOR_ALL = {'CIFAR10': 50_000, 'FashionMNIST': 60_000}
IF_ABSENT = {'ImageNet': 1_281_167, 'CocoDataset': 117_266}
#: Images of the two forwards that are counted, to tell what grows with the batch; BN needs more than one
FEW, MORE = 2, 3
SECONDS_A_DAY = 24 * 60 * 60


class ConfigCost(NamedTuple):
    """Result of `config_cost`."""

    #: Active branches of all blocks, 0 in a network without blocks
    branches: float
    #: Images a GPU and step, and GPUs
    batch_size: int
    gpus: int
    #: Optimizer steps of the whole schedule
    iterations: int
    #: Of the model in training, all candidate branches among them
    parameters: int
    #: Bytes that the forward saves for backward, more with each image
    bytes_an_image: float
    #: Weights, gradients, the optimizer's state, and what the forward of a batch saves for backward
    bytes_a_gpu: float
    #: Floating-point operations of forward and backward of an image; a multiply-add is two
    flops_an_image: float

    def gpu_days(self, tflops: float) -> float:
        """Days of all GPUs together, if they keep up so many TFLOPS."""
        images = self.iterations * self.batch_size * self.gpus
        return images * self.flops_an_image / (tflops * 1e12) / SECONDS_A_DAY


def config_cost(cfg: Config, draws: int = 5) -> ConfigCost:
    """Count what training with ``cfg`` needs in float32.

    Forward and backward really run, on the CPU, with a few images of noise. In a search by Algorithm 1, which has other
    branches in every iteration, memory and operations are means over draws from α's start. In one that shrinks, memory
    is that of all branches, and operations are those of all until the cut and of drawn ones behind it. Not counted are
    the loss and what a two-stage detector does behind its neck, which depend on the annotations; the operations of
    norms and other element-wise layers, and of mmcv's own operators; cuDNN's workspace, and the buckets of
    DistributedDataParallel.

    Args:
        cfg: A config that a Runner could train.
        draws: How many times branches are drawn where there is a search.

    Raises:
        ValueError: if the image size cannot be told from the config.
    """
    batch_size, *image = image_shape(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
        model = MODELS.build(cfg.model).train()
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
        steps_an_epoch, gpus = _steps_an_epoch(cfg, batch_size)
    few, more = torch.rand(FEW, *image), torch.rand(MORE, *image)
    phases = []
    search = configured_search(cfg, model, few, batch_size)
    for part, choices in [(1.0, [lambda: None])] if search is None else search_phases(cfg, *search, draws):
        counts = []
        for choose in choices:
            choose()
            branches = sum(len(b.active_branches) for b in find_blocks(model).values() if not b.deploy)
            saved = _saved_bytes(model, few)
            growth = (_saved_bytes(model, more) - saved) / (MORE - FEW)
            with FlopCounterMode(display=False) as counter:
                forward_sum(model, few).backward()
            counts.append((branches, counter.get_total_flops() / FEW, saved + (batch_size - FEW) * growth, growth))
        phases.append((part, [statistics.fmean(column) for column in zip(*counts)]))
    branches, flops_an_image = (sum(part * means[i] for part, means in phases) for i in (0, 1))
    activations, bytes_an_image = max(means[2:] for _, means in phases)
    return ConfigCost(
        branches=branches,
        batch_size=batch_size,
        gpus=gpus,
        iterations=cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs * steps_an_epoch,
        parameters=sum(p.numel() for p in model.parameters()),
        bytes_an_image=bytes_an_image,
        bytes_a_gpu=_weight_bytes(model, optimizer) + activations,
        flops_an_image=flops_an_image,
    )


def _steps_an_epoch(cfg: Config, batch_size: int) -> tuple[int, int]:
    """(steps, GPUs), the latter as many as the batch needs for which the config's lr is meant."""
    gpus = max(1, cfg.get('auto_scale_lr', {}).get('base_batch_size', batch_size) // batch_size)
    dataset, times = cfg.train_dataloader.dataset, 1
    while dataset.type == 'RepeatDataset':
        dataset, times = dataset.dataset, times * dataset.times
    return math.ceil(times * _num_images(dataset) / (gpus * batch_size)), gpus


def _num_images(dataset: ConfigDict) -> int:
    if dataset.type in SAME_FOR_ALL:
        return dataset.get('indices') or SAME_FOR_ALL[dataset.type]
    try:
        return len(DATASETS.build(dataset))
    except FileNotFoundError:
        if dataset.type not in IF_ABSENT:
            raise
        return IF_ABSENT[dataset.type]


def configured_search(
    cfg: Config, model: nn.Module, images: Tensor, batch_size: int
) -> tuple[RepNASHook, BranchSearch] | None:
    """The hook of ``cfg`` and a search of its own over ``model``; None if there is no such hook.

    Args:
        cfg: Of the model.
        model: Its blocks are searched.
        images: A few, from which a memory constraint tells what a batch brings.
        batch_size: Of the training.
    """
    settings = next((dict(hook) for hook in cfg.get('custom_hooks', ()) if hook['type'] == 'RepNASHook'), None)
    if settings is None:
        return None
    settings.pop('type')
    hook = RepNASHook(**settings)
    blocks = {name: block for name, block in find_blocks(model).items() if block.searchable}
    search = hook.strategy.new_search(blocks)
    if search.needs_input_shapes():
        with torch.no_grad():
            inputs = input_shapes(blocks, lambda: forward_sum(model, images))
        search.set_input_shapes(
            {name: [((batch_size, *shape[1:]), dtype) for shape, dtype in calls] for name, calls in inputs.items()}
        )
    return hook, search


def search_phases(
    cfg: Config, hook: RepNASHook, search: BranchSearch, draws: int = 1
) -> list[tuple[float, list[Callable[[], None]]]]:
    """(Part of the iterations, functions of which each makes the blocks compute what they do in one of them), ...

    Where the branches are drawn, there are ``draws`` functions. Algorithm 1 draws in all iterations. A search that
    shrinks starts with all branches, and which ones stay behind the cut is drawn, because only the search itself could
    tell.
    """

    def sample() -> None:
        search.apply(*search.sample())

    def stay() -> None:
        search.apply(search.keep(torch.rand(len(search.block_ids)).numpy()))

    if hook.strategy_name != 'shrink':
        return [(1.0, [sample] * draws)]
    total = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs
    behind = hook.strategy.phases.frozen_of(total) / total
    return [(1 - behind, [sample]), (behind, [stay] * draws)]


def _saved_bytes(model: nn.Module, images: Tensor) -> int:
    return bytes_saved_for_backward(lambda: forward_sum(model, images), (images, *model.parameters(), *model.buffers()))


def _weight_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Weights, gradients and the state that the optimizer has after its first step."""
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    state = [leaf for leaf in tree_leaves(optimizer.state) if isinstance(leaf, Tensor)]
    return sum(t.nbytes for t in (*model.parameters(), *model.parameters(), *model.buffers(), *state))
