"""Measure what training and inference cost beside stock RepVGG: `python tools/benchmark.py`.

Everything is a ratio of things measured side by side in this one run. Writes tables (CSV, Markdown): `benchmark`, of
all measures but two; `growth`, the cost with more branches, images and pixels, with a figure; and `tricks`, what each
fast path of the blocks gains. `--settings a0-160 a0-224 digits --measures kept step` is short.
"""

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarking import MEASURES, fast_paths, growth
from benchmarking.growth_plot import plot_growth
from benchmarking.settings import NAMED, Setting
from measuring.reports import Report
from measuring.timing import describe, measuring_device
from repnas_mm.models import fast
from repnas_mm.utils import check_writable

#: (side in pixels, batch size) at which the hook is measured
HOOK = (224, 32)
ARCHS = ('A0', 'A1', 'A2', 'B0', 'B1', 'B2', 'B3')
#: Draws of the gates in a setting without a name
DRAWS = 20


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--archs', nargs='+', choices=ARCHS, default=['A0'], help='growth is that of the first')
    parser.add_argument(
        '--settings', nargs='+', choices=NAMED, help='networks with their own images, instead of the archs'
    )
    names = [*MEASURES, 'growth', 'tricks']
    parser.add_argument('--measures', nargs='+', choices=names, default=names, help='by default all')
    parser.add_argument('--image-size', type=int, default=160, help='side in pixels; the hook is measured at 224')
    parser.add_argument('--batch-size', type=int, default=8, help='images; the hook is measured with 32')
    parser.add_argument(
        '--draws', type=int, help='of the gates, and repetitions of other measurements; 20, or as each setting has it'
    )
    parser.add_argument('--amp', choices=['bfloat16', 'float16'], help='train in mixed precision')
    parser.add_argument('--channels-last', action='store_true', help='train in NHWC')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark'), help='where the results go')
    args = parser.parse_args(argv)
    for name in ('image_size', 'batch_size', 'draws'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1')
    return args


def settings(args: argparse.Namespace, device: str) -> list[tuple[Setting, int]]:
    """Settings that the options ask for, each with its number of draws."""
    chosen = [(NAMED[name][0](), NAMED[name][1]) for name in args.settings or ()]
    if not chosen:
        chosen = [(Setting(arch, args.image_size, args.batch_size), DRAWS) for arch in args.archs]
    how = dict(amp=args.amp, channels_last=args.channels_last, device=device)
    return [(replace(setting, **how), args.draws or draws) for setting, draws in chosen]


def main(argv=None) -> None:
    args = parse_args(argv)
    check_writable(args.out)
    torch.manual_seed(0)
    device = measuring_device()
    command = shlex.join(['python', 'tools/benchmark.py', *(sys.argv[1:] if argv is None else argv)])
    where = f'Measured on {describe(device)}, torch {torch.__version__}, {args.amp or "float32"}.'
    reports, rows, tricks = [], [], []
    for number, (setting, draws) in enumerate(settings(args, device.type)):
        for name in [name for name in MEASURES if name in args.measures]:
            print(f'{setting}: {name}', flush=True)
            elsewhere = name == 'hook' and not args.settings
            there = replace(setting, image_size=HOOK[0], batch_size=HOOK[1]) if elsewhere else setting
            rows += MEASURES[name](there, draws)
        if 'growth' in args.measures and number == 0:
            print(f'{setting}: growth', flush=True)
            points = growth.measure(setting, draws)
            rows += growth.straightness(points, setting)
            figure = plot_growth(points, [growth.BYTES, growth.MILLISECONDS])
            reports.append(Report('growth', f'How the cost grows, {setting.arch}', points, {'': figure}, [where]))
        if 'tricks' in args.measures:
            print(f'{setting}: tricks', flush=True)
            tricks += fast_paths.measure(setting, draws, fast.PATHS, fast.without)
    if tricks:
        notes = [f'`{path}`: {text}' for path, text in fast.PATHS.items()]
        reports.append(Report('tricks', 'What each fast path gains', tricks, notes=[*notes, where]))
    if rows:
        reports.append(Report('benchmark', 'What the search costs', rows, notes=[where]))
    for report in reports:
        print(report.write(args.out, command))
    for report in reports:
        print(f'\n{report.to_markdown()}')


if __name__ == '__main__':
    main()
