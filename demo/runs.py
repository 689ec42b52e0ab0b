"""Trainings of the demos and the networks that they leave in their folders.

Importing this file makes the packages of tools/ known, which are not installed.
"""

import sys
import time
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from repnas_mm.engine.checkpoint import build_model, load_file
from repnas_mm.utils.cli import set_loader_defaults

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs'
sys.path.append(str(ROOT / 'tools'))


def load_config(path: Path) -> Config:
    """A config with the settings that mmpretrain leaves to its own train.py."""
    cfg = Config.fromfile(path)
    set_loader_defaults(cfg)
    return cfg


def train(cfg: Config, folder: Path, *hooks: Hook) -> None:
    """Train into ``folder``; ``hooks`` run after all others."""
    cfg.work_dir = str(folder)
    cfg.experiment_name = f'{folder.name}_{time.time()}'
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook, priority='LOWEST')
    runner.train()


def load_network(cfg: Config, checkpoint: str | Path) -> nn.Module:
    """Build the network of ``cfg``, in the form and with the weights of ``checkpoint``."""
    return build_model(cfg, load_file(checkpoint)).eval()


def latency_before_and_after_fusing(cfg: Config, batch_size: int) -> tuple[float, float]:
    """Median milliseconds of a forward of the classifiers that a search with ``cfg`` left, before and after fusing."""
    from measuring.timing import latencies
    from measuring.training_cost import image_shape

    _, channels, size, _ = image_shape(cfg)
    forms = {name: load_network(cfg, Path(cfg.work_dir) / f'{name}.pth') for name in ('subnet', 'fused')}
    seconds = latencies(forms, batch_size, size, channels_last=False, in_channels=channels)
    return 1e3 * seconds['subnet'], 1e3 * seconds['fused']
