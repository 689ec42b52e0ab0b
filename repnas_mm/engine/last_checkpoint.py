"""The checkpoint that a run goes on from, and the moments at which it writes the next."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import find_latest_checkpoint

from .checkpoint import find_damage, load_file


def resume_from(cfg: Config, checkpoint: str | None = None) -> None:
    """Let a run of ``cfg`` go on where an earlier one stopped, with that one's seed if ``cfg`` has none.

    Args:
        cfg: Its work dir is set.
        checkpoint: Without one, the newest whole checkpoint of the work dir; without any, the run starts anew, from
            the ``load_from`` of ``cfg`` if it has one.
    """
    checkpoint = checkpoint or find_last_checkpoint(cfg.work_dir)
    cfg.resume = checkpoint is not None
    if checkpoint is None:
        return
    cfg.load_from = checkpoint
    if cfg.get('randomness', {}).get('seed') is None:
        # MMEngine takes the seed over, but only after it has built the data loaders with another one
        cfg.merge_from_dict({'randomness.seed': load_file(checkpoint).get('meta', {}).get('seed')})


def find_last_checkpoint(folder: str | Path) -> str | None:
    """Find the newest checkpoint of a work dir that was written to its end; None if there is none.

    CheckpointHook writes in place: a run that was killed meanwhile leaves half a file, which this passes over, where
    MMEngine's own `find_latest_checkpoint` does not.
    """
    for path in _newest_first(Path(folder)):
        if '://' in path or is_whole(path):
            return path
    return None


def is_whole(path: str | Path) -> bool:
    """Return True if a checkpoint has its end, and all of it the checksums it was written with."""
    try:
        return zipfile.is_zipfile(path) and find_damage(path) is None
    except Exception:  # half a file raises almost anything
        return False


def checkpoint_due(runner, by_epoch: bool) -> bool:
    """Return True if a CheckpointHook is about to save, asked at the end of an epoch or of an iteration."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.by_epoch == by_epoch:
            every = hook.every_n_epochs if by_epoch else hook.every_n_train_iters
            is_last = hook.is_last_train_epoch if by_epoch else hook.is_last_train_iter
            if every(runner, hook.interval, hook.save_begin) or (hook.save_last and is_last(runner)):
                return True
    return False


def _newest_first(folder: Path) -> Iterator[str]:
    # what the run itself calls its last one: a work dir may hold longer runs from before
    if (folder / 'last_checkpoint').exists() and (path := find_latest_checkpoint(str(folder))):
        yield path
    saved = [*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')]
    yield from map(str, sorted(saved, key=lambda path: path.stat().st_mtime_ns, reverse=True))
