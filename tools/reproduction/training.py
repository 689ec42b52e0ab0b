"""One training of a reproduction: a config, some options, and the folder that holds what came out."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner, find_latest_checkpoint

from repnas_mm.engine import SafeLoadHook
from repnas_mm.engine.last_checkpoint import resume_from
from repnas_mm.utils.cli import set_loader_defaults
from repnas_mm.utils.fileio import atomic_write, check_writable

from .data import place_data


@dataclass(frozen=True)
class Training:
    """A config to train, fuse and test.

    Args:
        name: Its folder under the work dir. Items that need the same training give it the same name and share it.
        config: Name of a file in ``configs/``, without ``.py``.
        options: Settings that differ from the config, as ``--cfg-options`` takes them.
    """

    name: str
    config: str
    options: Mapping = field(default_factory=dict, hash=False)

    def load_config(self, configs: Path) -> Config:
        """The whole config, from the folder ``configs``."""
        cfg = Config.fromfile(configs / f'{self.config}.py')
        set_loader_defaults(cfg)
        cfg.merge_from_dict(deepcopy(dict(self.options)))  # which uses up a `_delete_`
        return cfg


@dataclass(frozen=True)
class Result:
    """Metrics that a training left in ``folder``.

    Args:
        metrics: Of the fused network on the test set, as the config's evaluator names them.
        by_epoch: Epoch -> metrics of the unfused network on the validation set.
        cpu_seconds: Of the training, on all cores; None if it was interrupted.
    """

    folder: Path
    metrics: dict[str, float]
    by_epoch: dict[int, dict[str, float]]
    cpu_seconds: float | None = None


def run_training(training: Training, configs: Path, folder: Path, data_root: str | None = None) -> Result:
    """Train, continuing where an earlier run stopped, and test the fused network; at once if that is done already.

    What the runner prints goes to ``output.log`` in ``folder``.

    Raises:
        ValueError: if the folder holds another training.
    """
    check_writable(folder)
    cfg = training.load_config(configs)
    _check_same(cfg, folder)
    if (folder / 'result.json').exists():
        return read_result(folder)
    if data_root is not None:
        place_data(cfg, data_root)
    cfg.work_dir = str(folder)
    resume_from(cfg)
    cfg.experiment_name = f'{training.name}_{time.time()}'
    with open(folder / 'output.log', 'a', encoding='utf-8') as log, redirect_stdout(log), redirect_stderr(log):
        cpu_seconds = None
        if not (folder / 'fused.pth').exists():
            fresh, start = not any(folder.glob('*.pth')), time.process_time()
            _runner(cfg).train()
            cpu_seconds = time.process_time() - start if fresh else None
        metrics = _test(folder, cfg)
    _write_json(folder / 'result.json', dict(metrics=metrics, by_epoch=_read_log(folder), cpu_seconds=cpu_seconds))
    return read_result(folder)


def read_result(folder: Path) -> Result:
    """The result that `run_training` left in ``folder``."""
    data = json.loads((folder / 'result.json').read_text())
    data['by_epoch'] = {int(epoch): metrics for epoch, metrics in data['by_epoch'].items()}
    return Result(folder, **data)


def _check_same(cfg: Config, folder: Path) -> None:
    """Remember what is trained in ``folder``, and refuse to mix two trainings, or two versions of a config."""
    settings = json.loads(json.dumps(cfg.to_dict(), default=str))
    path = folder / 'training.json'
    if path.exists() and json.loads(path.read_text()) != settings:
        raise ValueError(
            f"'{folder}' holds another training, or an earlier version of it; delete the folder or choose another."
        )
    _write_json(path, settings)


def _test(folder: Path, cfg: Config) -> dict[str, float]:
    """Metrics of ``fused.pth`` with its own config, or of the last checkpoint if nothing was to be fused."""
    checkpoint = folder / 'fused.pth'
    if checkpoint.exists():
        cfg = Config.fromfile(folder / 'fused.py')
    else:
        checkpoint = find_latest_checkpoint(str(folder))
    cfg.load_from, cfg.resume, cfg.work_dir = str(checkpoint), False, str(folder / 'test')
    cfg.experiment_name = f'{folder.name}_test_{time.time()}'
    return {key: float(value) for key, value in _runner(cfg).test().items()}


def _runner(cfg: Config) -> Runner:
    """Build a runner that also loads checkpoints of networks without a block, whose configs have no hook of ours."""
    runner = Runner.from_cfg(cfg)
    runner.register_hook(SafeLoadHook())
    return runner


def _read_log(folder: Path) -> dict[int, dict[str, float]]:
    """Validation metrics by epoch, from the logs of all runs in ``folder``; a later run wins."""
    validations = (scalars for scalars in logged(folder) if 'iter' not in scalars)  # whose step is the epoch
    return {s['step']: {key: value for key, value in s.items() if '/' in key} for s in validations}


def logged(folder: Path) -> Iterator[dict]:
    """Yield what all runs in ``folder`` have logged, the earliest first."""
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        yield from map(json.loads, path.read_text().splitlines())


def _write_json(path: Path, data: dict) -> None:
    with atomic_write(path) as f:
        f.write((json.dumps(data, indent=1) + '\n').encode())
