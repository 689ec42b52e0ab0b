"""Write files so that each is either the old one or the new one, never half of either."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import torch


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file to write to, renamed to ``path`` when the block ends and deleted when it fails.

    Raises:
        OSError: one sentence that names ``path``; a file already there stays as it is.
    """
    path = Path(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f'.{path.name}.', delete=False) as f:
            temporary = f.name
            yield f
            f.flush()
            os.fsync(f.fileno())
        # a temporary file is private to its owner; the result follows the user's umask like any other file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException as e:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        if isinstance(e, OSError):
            raise OSError(f"'{path}' cannot be written: {e.strerror or e}.") from e
        raise


def save_atomic(checkpoint: dict, path: str | Path) -> None:
    """Save a checkpoint by torch.save, atomically."""
    with atomic_write(path) as f:
        try:
            torch.save(checkpoint, f)
        except RuntimeError as e:
            if isinstance(e.__context__, OSError):
                raise e.__context__ from None  # such as a full disk, over which torch then stumbles
            raise


def check_writable(folder: str | Path) -> None:
    """Make ``folder`` and a file in it, so that a run that could not save anything stops before it starts."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise OSError(f"Work dir '{folder}' cannot be written: {e.strerror or e}; choose another --work-dir.") from e
