"""Thousands of iterations of a small search: memory and step time of its parts, side by side.

`make stress`, or `python tests/stress/long_run.py --iterations 3000`. Prints a Markdown table; fails if the second half
needs more memory than the first.
"""

import argparse
import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from small_search import in_iterations, small_search

PARTS = 10
#: Resident memory is not to the byte what the program holds
SLACK_MIB = 8


class Watch(Hook):
    """Times every step, and measures memory and the number of live tensors at the end of every part of the run."""

    priority = 'LOWEST'

    def __init__(self):
        self.seconds, self.parts = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.start = time.perf_counter()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seconds.append(time.perf_counter() - self.start)
        if (runner.iter + 1) % (runner.max_iters // PARTS) == 0:
            gc.collect()
            tensors = sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())
            memory = psutil.Process().memory_info().rss / 2**20
            self.parts.append((runner.iter + 1, statistics.median(self.seconds) * 1000, memory, tensors))
            self.seconds = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--iterations', type=int, default=3000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cfg = in_iterations(small_search(Path(folder)))
        cfg.train_cfg.update(max_iters=args.iterations, val_interval=args.iterations // PARTS)
        cfg.default_hooks.checkpoint.update(interval=args.iterations // PARTS, max_keep_ckpts=2)
        cfg.default_hooks.logger.interval = 50
        cfg.custom_hooks[0].update(warmup=0, frozen=0)
        cfg.visualizer = dict(type='Visualizer')
        watch = Watch()
        runner = Runner.from_cfg(cfg)
        runner.register_hook(watch)
        runner.train()
    print('| iteration | median step (ms) | resident memory (MiB) | live tensors |\n|---|---|---|---|')
    for iteration, milliseconds, memory, tensors in watch.parts:
        print(f'| {iteration} | {milliseconds:.1f} | {memory:.0f} | {tensors} |')
    *_, middle, _, _, _, _, last = watch.parts
    if last[2] > middle[2] + SLACK_MIB or last[3] > middle[3]:
        raise SystemExit('The second half of the run needs more memory than the first.')


if __name__ == '__main__':
    main()
