"""Reproduce a table or figure of the paper at a chosen scale: `python tools/reproduce.py table3 --preset digits`.

Writes a CSV, a Markdown page with the paper's numbers beside ours and a figure. Started again, it goes
on where it was interrupted. `all` makes whatever the scale has.
"""

import argparse
import os
import platform
import shlex
import sys
import time
from importlib import import_module
from pathlib import Path

import torch

from repnas_mm.utils import check_writable
from reproduction import ITEMS, SCALES, Lab
from reproduction.data import find_data

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('item', choices=[*ITEMS, 'all'])
    parser.add_argument('--preset', choices=SCALES, required=True, help='scale: data, networks and epochs')
    parser.add_argument('--seeds', type=int, help='trainings of each network, with seeds from 0 on')
    parser.add_argument('--processes', type=int, default=1, help='trainings at the same time; they share the machine')
    parser.add_argument('--data-root', help='where the data is, if not where the configs say')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/reproduce'), help='holds the trainings')
    parser.add_argument('--out', type=Path, help='where the results go; by default WORK_DIR/results/PRESET')
    args = parser.parse_args(argv)
    for name in ('seeds', 'processes'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name} must be at least 1')
    return args


def main(argv=None) -> None:
    args = parse_args(argv)
    scale = SCALES[args.preset]
    items = scale.items if args.item == 'all' else [args.item]
    for item in items:
        scale.check(item)
    data_root = None
    if not set(items) <= set(scale.without_data):
        data_root = find_data(scale, args.data_root, args.work_dir / scale.name)
    out = args.out or args.work_dir / 'results' / scale.name
    check_writable(out)
    seeds = range(args.seeds or scale.seeds)
    for item in items:
        with open(out / f'{item}.log', 'a', encoding='utf-8') as log:

            def say(line: str) -> None:
                line = f'{time.strftime("%F %T")} {line}'
                print(line, flush=True)
                print(line, file=log, flush=True)

            command = shlex.join(['python', 'tools/reproduce.py', item, *(argv or sys.argv[1:])[1:]])
            say(command)
            say(f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}')
            lab = Lab(args.work_dir, CONFIGS, args.processes, data_root, say)
            report = import_module(f'reproduction.items.{ITEMS[item]}').make(lab, scale, seeds)
            page = report.write(out, command)
            say(f'{page}')
    print(f'\n{report.to_markdown()}')


if __name__ == '__main__':
    main()
