"""BN statistics of the final genotype, where those of the search are a mixture over many."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .runner_models import unwrap


class _SizedLoader:
    """A dataloader with a ``batch_size``, which one with a batch sampler (mmdet's default) lacks."""

    def __init__(self, loader):
        self.loader = loader
        self.batch_size = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', 1)

    def __iter__(self):
        return iter(self.loader)

    def __len__(self):
        return len(self.loader)


def recalibrate(model: nn.Module, dataloader, num_samples: int = 8192, logger='current') -> None:
    """Replace the running statistics of all BNs by averages over training batches, in place (PreciseBN).

    Args:
        model: An MMEngine model, its active branches already those of the genotype.
        dataloader: Of the training data.
        num_samples: Images over all ranks, at least one batch.
    """
    from mmpretrain.engine.hooks.precise_bn_hook import update_bn_stats  # only now: it imports all of their hooks

    model = unwrap(model)
    training = model.training
    model.train()
    loader = _SizedLoader(dataloader)
    update_bn_stats(model, loader, max(num_samples, loader.batch_size), logger)
    model.train(training)


def restart_statistics(model: nn.Module) -> None:
    """Let all BNs that train gather their running statistics anew from the next batch on, in place."""
    for module in unwrap(model).modules():
        if isinstance(module, _BatchNorm) and module.training:
            module.reset_running_stats()
