"""The ``memory`` constraint under inputs that change in size: the blocks are measured again whenever these grow."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from mmengine.dist import all_gather_object, all_reduce
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..search.branch_search import BranchSearch
from ..search.memory import Input
from .fusing import output_of
from .input_shapes import input_shapes, noting_inputs
from .runner_models import unwrap


class InputWatch:
    """Tells a search what arrives at its blocks, before a batch is trained on that is larger than all before.

    What only a training brings, as the boxes that a detector's second stage trains on, is known after the forward that
    brought it, and counts from the next one on.

    Args:
        search: With a memory constraint.
    """

    def __init__(self, search: BranchSearch):
        self.search = search
        self.largest = 0
        self._arrived: dict[str, list[Input]] = {}  # in the last training forward

    def look(self, runner, inputs: Mapping | Sequence, genotype: np.ndarray | None) -> bool:
        """Return True, after measuring, if more arrives than ever before on any rank; a call for all ranks.

        Args:
            inputs: A preprocessed batch.
            genotype: Mask, once it is frozen.
        """
        news = torch.tensor([_size(inputs), self.search.is_larger(self._arrived)])
        all_reduce(news, 'max')
        size, arrived = news.tolist()
        if size > self.largest:
            self.largest = size
            model = unwrap(runner.model)
            shapes = input_shapes(self.search.blocks, lambda: output_of(model, inputs))
            source = f'inputs of {size} values'
        elif arrived:
            shapes, source = self._arrived, 'what the last one brought'
        else:
            return False
        for others in all_gather_object(shapes):  # all ranks are to choose alike
            self.search.set_input_shapes(others, genotype)
        runner.logger.info(f'Memory of the blocks measured in iteration {runner.iter + 1}, on {source}.')
        budget = self.search.memory
        if genotype is not None and budget and (needed := self.search.genotype_bytes(genotype)) > budget:
            runner.logger.warning(
                f'memory={budget} bytes is less than the {needed} bytes that the frozen branches need for '
                'inputs as large as these, although blocks recompute; show large inputs before the freeze.'
            )
        return True

    def before_forward(self, runner, look: Callable[[Mapping | Sequence], None]) -> None:
        """Let the next training forward of the model begin with ``look`` at what it gets, and note what arrives."""
        model = unwrap(runner.model)

        def begin(_, args, kwargs):
            if kwargs.get('mode') != 'loss':
                return
            start.remove()
            look({name: value for name, value in kwargs.items() if name != 'mode'} or args)
            forward = ExitStack()
            self._arrived = forward.enter_context(noting_inputs(self.search.blocks))
            forward.callback(model.register_forward_hook(lambda *_: forward.close(), always_call=True).remove)

        start = model.register_forward_pre_hook(begin, with_kwargs=True)


def _size(inputs: Mapping | Sequence) -> int:
    images = inputs.get('inputs', inputs) if isinstance(inputs, Mapping) else inputs
    return sum(leaf.numel() for leaf in tree_leaves(images) if isinstance(leaf, Tensor))
