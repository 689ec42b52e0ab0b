"""The state of a search over a model's blocks: `BranchSearch` draws, keeps and ends with (Algorithm 1)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import is_positive, quote
from .block import Block
from .memory import BlockMemory, Input, parse_bytes, values
from .sampler import gate_slope, keep_memory, keep_number, logistic_noise
from .space import check_num_branches


class BranchSearch:
    """Chooses the active branches of all blocks, once an iteration.

    Args:
        blocks (Mapping[str, Block]): Name -> searchable block.
        num_branches (int, optional): Keep this many branches over all blocks.
        memory (int | str, optional): Or keep, in rank order, what fits this many bytes of activations. Exactly one
            of the two must be given.
        temperature (float): λ of Eq. 11. Defaults to 1.
        seed (int): Of the noise. Defaults to 0.
    """

    def __init__(
        self,
        blocks: Mapping[str, Block],
        num_branches: int | None = None,
        memory: int | str | None = None,
        temperature: float = 1.0,
        seed: int = 0,
    ):
        if (num_branches is None) == (memory is None):
            raise ValueError('Give exactly one of num_branches and memory as the constraint of the search.')
        # beyond this the gates' derivatives leave float32
        if not is_positive(temperature) or not 1e-6 <= temperature <= 1e6:
            raise ValueError(
                f'temperature must be a positive number, got {quote(temperature)}; choose one from 1e-6 to 1e6.'
            )
        if not blocks:
            raise ValueError('There is no block to search.')
        self.blocks = dict(blocks)
        #: Copy of a block -> (name of that block, the copy); copies follow without α of their own
        self.copies: dict[str, tuple[str, Block]] = {}
        self.candidates = {name: block.candidates for name, block in self.blocks.items()}
        self.num_branches, self.temperature = num_branches, temperature
        if num_branches is not None:
            check_num_branches(num_branches, self.candidates)
        self.memory = None if memory is None else parse_bytes(memory)
        self.block_memory: BlockMemory | None = None
        self._with_cp = [getattr(block, 'with_cp', False) for block in self.blocks.values()]
        self._recompute_genotype = False
        self._scores = np.empty(0)  # of the last sample
        self._noise: Tensor | None = None  # ζ of the branches that the blocks compute, where α is to learn from them
        sizes = [len(names) for names in self.candidates.values()]
        self.block_ids = np.repeat(np.arange(len(sizes)), sizes)
        self._ends = np.cumsum(sizes)
        self.generator = torch.Generator().manual_seed(seed)

    @property
    def alphas(self) -> list[nn.Parameter]:
        return [block.alpha for block in self.blocks.values()]

    def alpha_values(self) -> np.ndarray:
        """All α, block after block, as one float64 vector (number of candidates,): one copy from the device.

        Raises:
            FloatingPointError: naming the first branch whose α is not finite.
        """
        alpha = torch.cat([a.detach() for a in self.alphas]).double().cpu().numpy()
        if not np.isfinite(alpha).all():
            bad = int(np.flatnonzero(~np.isfinite(alpha))[0])
            name, branches = list(self.candidates.items())[self.block_ids[bad]]
            branch = branches[bad - int(np.searchsorted(self.block_ids, self.block_ids[bad]))]
            raise FloatingPointError(
                f"alpha of branch '{branch}' in block '{name}' is {alpha[bad]}; resume from the last checkpoint with a "
                'smaller learning rate.'
            )
        return alpha

    def needs_input_shapes(self) -> bool:
        """Return True as long as the memory constraint has not seen the shapes of a batch."""
        return self.memory is not None and self.block_memory is None

    def is_larger(self, inputs: Mapping[str, Sequence[Input]]) -> bool:
        """Return True if more arrives at a block than the memory constraint knows of."""
        if self.block_memory is None:
            return False
        known = zip(self.blocks, self.block_memory.inputs)
        return any(values(inputs.get(name, ())) > values(calls) for name, calls in known)

    def set_input_shapes(self, inputs: Mapping[str, Sequence[Input]], genotype: np.ndarray | None = None) -> None:
        """Tell the memory constraint what arrives at the blocks, of which it remembers the largest.

        Args:
            inputs: Block name -> what it gets in an iteration, call by call.
            genotype: Mask, once it is frozen; its blocks recompute from now on if they must (`genotype_bytes`).

        Raises:
            ValueError: without genotype, unless any one branch a block fits the budget, whatever the noise prefers
                later in the run.
        """
        assert self.memory is not None, 'needs_input_shapes comes first'
        new = [inputs[name] for name in self.blocks]
        if self.block_memory is None:
            self.block_memory = BlockMemory(list(self.blocks.values()), new)
        else:
            self.block_memory.inputs = [max(pair, key=values) for pair in zip(self.block_memory.inputs, new)]
        if genotype is None:
            self._check_memory()
            return
        for self._recompute_genotype in (False, True):
            self._set_with_cp(self._recompute_genotype)
            if self.genotype_bytes(genotype) <= self.memory:
                return

    def _check_memory(self) -> None:
        assert self.memory is not None and self.block_memory is not None
        needed = sum(
            max(self.block_memory(i, (j,)) for j in range(len(names)))
            for i, names in enumerate(self.candidates.values())
        )
        if self.memory < needed:
            raise ValueError(
                f'memory={self.memory} bytes is less than the {needed} bytes that the costliest branch of every block '
                'needs at this batch size; raise memory or lower the batch size.'
            )

    def genotype_bytes(self, genotype: np.ndarray) -> int:
        """Bytes that the masked branches save for backward, as the blocks compute them now, at the largest inputs."""
        assert self.block_memory is not None, 'set_input_shapes comes first'
        masks = np.split(genotype, self._ends[:-1])
        return sum(self.block_memory(i, tuple(np.flatnonzero(mask).tolist())) for i, mask in enumerate(masks))

    def _set_with_cp(self, recompute: bool) -> None:
        for block, own in zip(self.blocks.values(), self._with_cp):
            setattr(block, 'with_cp', own or recompute)  # noqa: B010, an option of ours that the protocol lacks

    def keep(self, scores: np.ndarray) -> np.ndarray:
        """Mask (number of candidates,) of the branches that the constraint lets stay, by ``scores`` of that shape."""
        if self.num_branches is not None:
            return keep_number(scores, self.block_ids, self.num_branches)
        assert self.memory is not None and self.block_memory is not None, 'set_input_shapes comes first'
        return keep_memory(scores, self.block_ids, self.memory, self.block_memory)

    def best(self) -> np.ndarray:
        """Mask of the noise-free choice by α: the genotype found so far."""
        return self.keep(self.alpha_values())

    def sample(self) -> tuple[np.ndarray, Tensor]:
        """Mask of the branches kept in this iteration and the noise ζ that chose them (Eq. 11, 13)."""
        noise = logistic_noise(len(self.block_ids), self.generator)
        # Z is increasing in α + ζ, which, unlike Z, does not saturate to ties
        self._scores = self.alpha_values() + noise.double().numpy()
        return self.keep(self._scores), noise

    def keep_again(self) -> np.ndarray:
        """Mask of what stays of the last sample since the inputs have grown."""
        return self.keep(self._scores)

    def apply(self, mask: np.ndarray, noise: Tensor | None = None) -> None:
        """Make the blocks compute the masked branches; with the noise ζ that chose them, α may learn from them."""
        self._noise = None if noise is None else noise.to(self.alphas[0].device, non_blocking=True)
        masks = self.masks_by_block(mask)
        for name, block in self.all_blocks().items():
            block.set_active(masks[name])

    @torch.no_grad()
    def read_gradients(self, factor: float = 1.0) -> bool:
        """Give α the gradient of Eq. 12, after backward and before the optimizer's step; ``factor`` multiplies it.

        Returns:
            False, and α gets none, if there is no noise to learn from.
        """
        if self._noise is None:
            return False
        slope = gate_slope(torch.cat([alpha.detach() for alpha in self.alphas]), self._noise, self.temperature)
        gradients = torch.cat([block.gate_gradients() for block in self.blocks.values()]).to(slope.dtype)
        for alpha, gradient in zip(self.alphas, self._split(factor * gradients * slope)):
            alpha.grad = gradient
        return True

    def masks_by_block(self, mask: np.ndarray) -> dict[str, Tensor]:
        """Block name -> its part of a mask, as a bool tensor; those of copies too."""
        masks = dict(zip(self.blocks, self._split(torch.from_numpy(mask.copy()))))
        return masks | {name: masks[twin] for name, (twin, _) in self.copies.items()}

    def all_blocks(self) -> dict[str, Block]:
        """Name -> block, of the searched ones and their copies."""
        return self.blocks | {name: copy for name, (_, copy) in self.copies.items()}

    def alpha_gap(self, mask: np.ndarray) -> float:
        """Mean α of the kept minus mean α of the dropped branches; 0 if nothing is dropped."""
        alpha = self.alpha_values()
        return 0.0 if mask.all() else float(alpha[mask].mean() - alpha[~mask].mean())

    def state_dict(self) -> dict:
        """Noise generator and measured shapes; α itself is in the model."""
        inputs = None if self.block_memory is None else self.block_memory.inputs
        return dict(generator=self.generator.get_state(), inputs=inputs, candidates=self.candidates)

    def load_state_dict(self, state: dict, genotype: Sequence[bool] | None = None) -> None:
        """Take over what `state_dict` returned; ``genotype`` as in `set_input_shapes`.

        Raises:
            ValueError: if it is of a search over other blocks.
        """
        if [(name, tuple(names)) for name, names in state['candidates'].items()] != [*self.candidates.items()]:
            raise ValueError('The checkpoint is of a search over other blocks; resume with the config it came from.')
        self.generator.set_state(state['generator'].cpu())
        if state['inputs'] is not None and self.memory is not None:
            self.set_input_shapes(
                dict(zip(self.blocks, state['inputs'])),
                None if genotype is None else np.array(genotype),
            )

    def _split(self, flat: Tensor) -> tuple[Tensor, ...]:
        return flat.tensor_split(self._ends[:-1].tolist())
