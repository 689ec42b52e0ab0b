"""The random state of this process, which stock checkpoints lack and an exact resume needs."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def rng_state() -> dict:
    """Collect the states of Python's, numpy's and torch's generators, as plain numbers and tensors."""
    version, internal, gauss = random.getstate()
    algorithm, keys, position, has_gauss, cached = np.random.get_state()
    return dict(
        python=(version, list(internal), gauss),
        numpy=(algorithm, keys.tolist(), int(position), int(has_gauss), float(cached)),  # type: ignore[attr-defined]
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    )


def set_rng_state(state: dict) -> None:
    """Restore what `rng_state` returned; GPUs only where there are as many as there were."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    algorithm, keys, *rest = state['numpy']
    np.random.set_state((algorithm, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if torch.cuda.is_available() and len(state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state['cuda']])


@contextmanager
def preserved() -> Iterator[None]:
    """Let random numbers go on behind the ``with`` block as if none had been drawn in it."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw random numbers from ``seed`` on inside the ``with`` block, and behind it as if there had been none."""
    with preserved():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield
