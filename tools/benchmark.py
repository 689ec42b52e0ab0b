"""Measure what training and inference cost beside stock RepVGG: `python tools/benchmark.py`.

Everything is a ratio of things measured side by side in this one run. Writes tables (CSV, Markdown) and the growth of
the cost with branches, images and pixels as a figure (PNG, SVG).
"""

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch

from repnas_mm.benchmark import MEASURES, Setting, growth
from repnas_mm.reproduce.latency import describe, measuring_device
from repnas_mm.reproduce.report import Report
from repnas_mm.utils import check_writable
from repnas_mm.visualization import draw_growth

#: (side in pixels, batch size) at which the hook is measured
HOOK = (224, 32)
ARCHS = ('A0', 'A1', 'A2', 'B0', 'B1', 'B2', 'B3')


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--archs', nargs='+', choices=ARCHS, default=['A0'], help='growth is that of the first')
    parser.add_argument('--measures', nargs='+', choices=[*MEASURES, 'growth'], default=[*MEASURES, 'growth'])
    parser.add_argument('--image-size', type=int, default=160, help='side in pixels; the hook is measured at 224')
    parser.add_argument('--batch-size', type=int, default=8, help='images; the hook is measured with 32')
    parser.add_argument('--draws', type=int, default=20, help='of the gates, and repetitions of other measurements')
    parser.add_argument('--amp', choices=['bfloat16', 'float16'], help='train in mixed precision')
    parser.add_argument('--channels-last', action='store_true', help='train in NHWC')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark'), help='where the results go')
    args = parser.parse_args(argv)
    for name in ('image_size', 'batch_size', 'draws'):
        if getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1')
    return args


def main(argv=None) -> None:
    args = parse_args(argv)
    check_writable(args.out)
    torch.manual_seed(0)
    device = measuring_device()
    command = shlex.join(['python', 'tools/benchmark.py', *(sys.argv[1:] if argv is None else argv)])
    where = f'Measured on {describe(device)}, torch {torch.__version__}, {args.amp or "float32"}.'
    rows = []
    for arch in args.archs:
        setting = Setting(arch, args.image_size, args.batch_size, args.amp, args.channels_last, device.type)
        for name in [name for name in MEASURES if name in args.measures]:
            print(f'{arch}: {name}', flush=True)
            there = replace(setting, image_size=HOOK[0], batch_size=HOOK[1]) if name == 'hook' else setting
            rows += MEASURES[name](there, args.draws)
        if 'growth' in args.measures and arch == args.archs[0]:
            print(f'{arch}: growth', flush=True)
            points = growth.measure(setting, args.draws)
            rows += growth.straightness(points, arch)
            figure = draw_growth(points, [growth.BYTES, growth.SECONDS])
            Report('growth', f'How the cost grows, {arch}', points, {'': figure}, [where]).write(args.out, command)
    report = Report('benchmark', 'What the search costs', rows, notes=[where])
    print(report.write(args.out, command))
    print(f'\n{report.to_markdown()}')


if __name__ == '__main__':
    main()
