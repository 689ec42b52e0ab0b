"""Measure on a GPU what needs one, within some minutes: `python tools/gpu_check.py`, or `make gpu`.

Trainings in every way that a CPU does not have, the cost of a step beside stock RepVGG and the naive block in each
precision, and the latency of all archs beside the stock networks of Table 2. Each part is written as soon as it is
done, and none is started for which the time would not do. `--tiny` runs everything small, on a CPU too.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import reproduce
from gpu import costs, trainings
from measuring.reports import Report
from measuring.timing import describe, measuring_device
from repnas_mm.utils import check_writable


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('docs/results/gpu'), help='where the results go')
    parser.add_argument('--minutes', type=float, default=8, help='no part is started that would end later; 8')
    parser.add_argument('--tiny', action='store_true', help='small networks and images, on a CPU if there is no GPU')
    parser.add_argument('--skip-compile', action='store_true', help='leave torch.compile out, which takes minutes')
    args = parser.parse_args(argv)
    if args.minutes <= 0:
        parser.error('--minutes must be positive')
    return args


class Ledger:
    """Runs jobs as long as the time does, and says which ones it left out.

    Args:
        seconds: For all jobs together.
    """

    def __init__(self, seconds: float):
        self.start, self.seconds = time.monotonic(), seconds
        self.left_out: list[str] = []

    @property
    def remaining(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.start)

    def run(self, jobs: Iterable[tuple[str, Callable]]) -> list[dict]:
        """Rows of all jobs for which the time does; one is expected to take as long as the longest before it."""
        rows: list[dict] = []
        longest = 0.0
        for name, job in jobs:
            if self.remaining < longest or self.remaining <= 0:
                self.left_out.append(name)
                continue
            print(f'{time.monotonic() - self.start:.0f} s: {name}', flush=True)
            began = time.monotonic()
            rows += job()
            longest = max(longest, time.monotonic() - began)
        return rows


def main(argv=None) -> None:
    args = parse_args(argv)
    check_writable(args.out)
    device = measuring_device()
    if device.type == 'cpu' and not args.tiny:
        raise RuntimeError('torch finds no GPU on this machine; --tiny runs the same small, on the CPU.')
    command = shlex.join(['python', 'tools/gpu_check.py', *(sys.argv[1:] if argv is None else argv)])
    where = f'Measured on {describe(device)}, torch {torch.__version__}.'
    ledger = Ledger(60 * args.minutes)
    shape = dict(device=device.type, **(dict(base_channels=8) if args.tiny else {}))
    archs, batches, size = (('A0',), (2,), 32) if args.tiny else (('A0', 'B1'), (64, 128), 224)

    with TemporaryDirectory() as folder:
        epochs = 2 if args.tiny else 20
        report = trainings.run(Path(folder), epochs, compiled=not args.skip_compile)
    report.notes = [where, *report.notes]
    report.write(args.out, command)
    if ledger.remaining > 0:
        preset = 'digits' if args.tiny else 'imagenet'
        reproduce.main(['table2', '--preset', preset, '--out', str(args.out)])
    parts = {('cost', 'What a step costs'): costs.jobs(archs, batches, size, **shape)}
    if not args.skip_compile:
        parts['compiled', 'What torch.compile gains'] = costs.compiled(archs[0], batches[0], size, **shape)
    for (name, title), jobs in parts.items():
        if rows := ledger.run(jobs):
            notes = [f'{where} Ratios of medians, measured in turns.']
            Report(name, title, rows, notes=notes).write(args.out, command)
    for name in ledger.left_out:
        print(f'left out, for lack of time: {name}')
    print(f'{ledger.seconds - ledger.remaining:.0f} s in all, results in {args.out}')


if __name__ == '__main__':
    main()
