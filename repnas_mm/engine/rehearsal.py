"""Rehearsal, before a training, of what happens for the first time when it ends."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..checks import error_text
from .rng import preserved


@contextmanager
def rehearsal(runner, what: str) -> Iterator[Path]:
    """Try, in the ``with`` block, what a hook is to do later, on copies; the log says how long it took.

    Random states stay as they are.

    Args:
        runner: That is about to train.
        what: Of the message and the log.

    Yields:
        A folder for all files, inside the work dir and gone behind the block.

    Raises:
        RuntimeError: one sentence with the reason, if anything fails.
    """
    start = time.perf_counter()
    try:
        with preserved(), TemporaryDirectory(prefix='.rehearsal-', dir=runner.work_dir) as folder:
            yield Path(folder)
    except Exception as e:
        raise RuntimeError(
            f'{what} would fail after days of training, as its rehearsal before them did: {error_text(e)}.'
        ) from e
    runner.logger.info(f'{what}: rehearsed in {time.perf_counter() - start:.1f} s')
