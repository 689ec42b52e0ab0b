"""Count what configs need to train, without data and without a GPU: `python tools/config_cost.py CONFIG ...`.

Builds each model on the CPU, counts what forward and backward save and compute, and writes a table (CSV, Markdown).
"""

import argparse
import shlex
import sys
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.hub import get_config
from mmengine.logging import MMLogger

from measuring.reports import Report
from measuring.training_cost import config_cost
from repnas_mm.utils import check_writable


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='a path, or a stock config as mmpretrain::...')
    parser.add_argument(
        '--tflops', type=float, default=10, help='what a GPU keeps up in training, in float32; 10 by default'
    )
    parser.add_argument('--draws', type=int, default=5, help='of the branches in a search; what is told is the mean')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override settings of all configs'
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/config_cost'), help='where the results go')
    args = parser.parse_args(argv)
    for name in ('tflops', 'draws'):
        if not getattr(args, name) > 0:
            parser.error(f'--{name} must be greater than 0')
    return args


def main(argv=None) -> None:
    args = parse_args(argv)
    MMLogger.get_instance('config_cost', log_level='WARNING')  # else a line for each parameter without weight decay
    check_writable(args.out)
    command = shlex.join(['python', 'tools/config_cost.py', *(sys.argv[1:] if argv is None else argv)])
    rows = [row(name, args) for name in args.configs]
    notes = [
        'Counted in float32, not measured on a GPU. Parameters are those in training. MiB are the activations that an '
        'image more saves for backward, GFLOPs those of its forward and backward. GiB are weights, gradients, the '
        'state of the optimizer and all activations of a batch; cuDNN, the allocator and DistributedDataParallel need '
        'more. '
        f'GPU-days are the operations of all forwards and backwards at {args.tflops:g} TFLOPS.'
    ]
    report = Report('config_cost', 'What configs need', rows, notes=notes)
    print(report.write(args.out, command))
    print(f'\n{report.to_markdown()}')


def row(name: str, args: argparse.Namespace) -> dict:
    """One line of the table."""
    torch.manual_seed(0)
    print(name, flush=True)
    cfg = get_config(name) if '::' in name else Config.fromfile(name)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    cost = config_cost(cfg, args.draws)
    return {
        'config': Path(name).stem,
        'branches': round(cost.branches),
        'GPUs × images': f'{cost.gpus} × {cost.batch_size}',
        'iterations': f'{cost.iterations:,}',
        'parameters (M)': cost.parameters / 1e6,
        'MiB an image': cost.bytes_an_image / 2**20,
        'GiB a GPU': cost.bytes_a_gpu / 2**30,
        'GFLOPs an image': cost.flops_an_image / 1e9,
        f'GPU-days at {args.tflops:g} TFLOPS': cost.gpu_days(args.tflops),
    }


if __name__ == '__main__':
    main()
