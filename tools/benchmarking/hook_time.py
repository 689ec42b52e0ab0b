"""RepNASHook's own seconds of a step, in a real run."""

import time
from tempfile import TemporaryDirectory

from mmengine.runner import Runner
from torch.utils.data import DataLoader

from measuring.timing import wait
from repnas_mm.engine.hooks import RepNASHook

from .compared import TrainingStep, repvgg_branches, searched
from .settings import Setting
from .targets import line

#: Iterations before those that count
WARMUP = 2


class _Timed(RepNASHook):
    """Adds up the seconds of its two calls an iteration, and those between them."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.own, self.step = [], []

    def before_train_iter(self, *args, **kwargs) -> None:
        wait()
        start = time.perf_counter()
        super().before_train_iter(*args, **kwargs)
        wait()
        self.began = time.perf_counter()
        self.own.append(self.began - start)

    def after_train_iter(self, *args, **kwargs) -> None:
        wait()
        ended = time.perf_counter()
        self.step.append(ended - self.began)
        super().after_train_iter(*args, **kwargs)
        wait()
        self.own[-1] += time.perf_counter() - ended

    def _rehearse(self, runner) -> None:
        """Rehearse nothing: there is no config of the model to export."""

    def after_train(self, runner) -> None:
        """Export nothing."""


def measure(setting: Setting, times: int) -> list[dict]:
    """Ratio of the hook's own time to that of the rest of the step, over so many steps of a run."""
    backbone = searched(setting)
    timed = _Timed(repvgg_branches(backbone), strategy='sample')
    training = TrainingStep(backbone, setting)
    steps = WARMUP + times
    with TemporaryDirectory() as work_dir:
        Runner(
            training.model,
            work_dir,
            train_dataloader=DataLoader([training.batch] * steps, collate_fn=lambda batches: batches[0]),
            train_cfg=dict(by_epoch=False, max_iters=steps),
            optim_wrapper=training.optim_wrapper,
            default_hooks=dict(checkpoint=None),
            custom_hooks=[timed],
            log_level='WARNING',
            experiment_name=f'benchmark_{time.time_ns()}',
        ).train()
    ratios = [own / step for own, step in zip(timed.own[WARMUP:], timed.step[WARMUP:])]
    return [line("hook's own time ÷ step time", setting, 'random', ratios)]
