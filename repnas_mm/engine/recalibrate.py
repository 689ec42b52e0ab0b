"""BN statistics of one network, where those at hand are a mixture over many."""

from collections.abc import Iterable
from copy import deepcopy

import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import all_reduce, get_rank, get_world_size
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from .rng import seeded
from .runner_models import unwrap
from .tensor_forward import calling_copies, calls_of
from .training_batches import batch_size_of, batches_of

#: Of the images and their augmentation: not the run's, so that all runs and their tools see the same ones
SEED = 0


def recalibrate(model: nn.Module, loader: DataLoader, num_images: int = 8192) -> None:
    """Replace the running statistics of all BNs that train by their means over training batches, in place (PreciseBN).

    The images are the same in every call. They come from the loader's dataset past the loader itself, and random states
    stay as they are, so that a training may go on behind the call as if there had been none.

    Args:
        model: An MMEngine model, its active branches already those of the genotype.
        loader: Of the training data.
        num_images: Images over all ranks, at least one batch on each.
    """
    indices = list(DefaultSampler(loader.dataset, shuffle=True, seed=SEED))
    size = batch_size_of(loader)
    count = max(1, min(num_images // get_world_size(), len(indices)) // size)
    with seeded(SEED + get_rank()):
        gather_statistics(model, batches_of(loader, indices[: count * size], size))


@torch.no_grad()
def gather_statistics(model: nn.Module, batches: Iterable) -> None:
    """Replace the running statistics of all BNs that train by their means over these batches, in place."""
    model = unwrap(model)
    training = model.training
    model.train()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    preprocessor = deepcopy(model.data_preprocessor)  # it may have a memory
    seen = dict.fromkeys(norms, 0)  # batches in which a norm had something to learn from
    touched: dict[nn.Module, bool] = {}
    handles = [
        norm.register_forward_pre_hook(
            lambda norm, inputs: touched.update({norm: touched.get(norm, False) or inputs[0].numel() > 0})
        )
        for norm in norms
    ]
    try:
        with calling_copies(model):
            for batch in batches:
                touched.clear()
                for norm in norms:
                    norm.momentum = 1 / (seen[norm] + 1)  # the mean over all batches so far
                for network, *data in calls_of(model, preprocessor(batch, True)):
                    network(*data, mode='tensor')
                for norm in norms:
                    seen[norm] += touched.get(norm, True)  # a fast path, which passes by the norm, is for content
    finally:
        for handle in handles:
            handle.remove()
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        model.train(training)
    if get_world_size() > 1:
        for norm, count in seen.items():
            _average(norm, count)


def _average(norm: nn.Module, count: int) -> None:
    """Average the statistics of ``norm`` over the ranks, each with the weight of its batches with content."""
    total = norm.running_mean.new_tensor([count])
    all_reduce(total)
    for moment in (norm.running_mean, norm.running_var) if total > 0 else ():
        all_reduce(moment.mul_(count / total))


def restart_statistics(model: nn.Module) -> None:
    """Let all BNs that train gather their running statistics anew from the next batch on, in place."""
    for module in unwrap(model).modules():
        if isinstance(module, _BatchNorm) and module.training:
            module.reset_running_stats()
