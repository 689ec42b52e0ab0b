"""BN statistics of the network that a search validates, in place of those of the mixture that has trained."""

from collections.abc import Mapping

from mmengine.runner.amp import autocast
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from ..checks import is_count, quote
from .recalibrate import recalibrate
from .runner_models import unwrap

#: Module -> its own buffers by name
Buffers = Mapping[nn.Module, dict[str, Tensor | None]]


class ValStatistics:
    """Recalibrates BN statistics for a validation, and for that alone.

    The model has them only while it computes a forward of the validation. In between it has its own buffers, the very
    same tensors: they are what EMAHook swaps, a checkpoint of the best model saves and a validation that raises leaves.

    Args:
        num_images (int): Training images over all ranks, for each validation; 0 turns it off.
    """

    def __init__(self, num_images: int):
        if not is_count(num_images, 0):
            raise ValueError(
                f'recalibrate_val of RepNASHook must be a number of images, or 0 for none, got {quote(num_images)}.'
            )
        self.num_images = num_images
        self._own: Buffers = {}
        self._handles: list[RemovableHandle] = []

    def gather(self, runner) -> None:
        """Let the runner's model, as it is now, validate with statistics of its own until `drop`."""
        self.drop()
        if self.num_images == 0:
            return
        model = unwrap(runner.model)
        own = {module: module._buffers for module in model.modules() if module._buffers}
        copies = {
            module: {name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()}
            for module, buffers in own.items()
        }
        try:
            _use(copies)
            with autocast(enabled=getattr(runner.val_loop, 'fp16', False)):
                recalibrate(model, runner.train_dataloader, self.num_images)
        finally:
            _use(own)
        # a training forward may have moved buffers of other modules as well, which are to be validated as they are
        statistics = {module: buffers for module, buffers in copies.items() if isinstance(module, _BatchNorm)}
        self._own = {module: own[module] for module in statistics}
        self._handles = [
            model.register_forward_pre_hook(lambda model, _: None if model.training else _use(statistics)),
            model.register_forward_hook(lambda *_: _use(self._own), always_call=True),
        ]

    def drop(self) -> None:
        """End what `gather` began, if it did."""
        for handle in self._handles:
            handle.remove()
        _use(self._own)  # an interrupt from the keyboard passes over forward hooks
        self._own, self._handles = {}, []


def _use(buffers: Buffers) -> None:
    for module, named in buffers.items():
        module._buffers = named
