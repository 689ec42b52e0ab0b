"""The command-line options that tools/train.py and tools/test.py share with mmpretrain's and mmdet's."""

import argparse
import os
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device

from .fileio import check_writable


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every runner takes: work dir, AMP, config options, launcher."""
    parser.add_argument('--work-dir', help='where logs and models go; by default work_dirs/<name of the config>')
    parser.add_argument('--amp', action='store_true', help='use automatic mixed precision')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override settings of the config'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # given by torchrun and torch.distributed.launch
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config ``args.config``, with the shared options merged in and a work dir that can be written."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    set_loader_defaults(cfg)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    check_writable(cfg.work_dir)
    if cfg.launcher == 'pytorch' and get_device() == 'cpu':
        _join_cpu_ranks(cfg)
    return cfg


def _join_cpu_ranks(cfg: Config) -> None:
    """Join the ranks that torchrun started, as MMEngine does only where there is an accelerator."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
    wrapper['find_unused_parameters'] = cfg.get('find_unused_parameters', False)
    cfg.setdefault('model_wrapper_cfg', wrapper)


def leave_ranks() -> None:
    """End the process group of all ranks, for the end of a script that went well.

    Else gloo's threads are still there when the interpreter ends, which now and then aborts a rank that had finished.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def set_loader_defaults(cfg: Config) -> None:
    """Set what mmpretrain's configs leave to its own train.py: how batches are collated, and workers that stay."""
    if cfg.get('default_scope') != 'mmpretrain':
        return
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if loader is not None:
            loader.setdefault('pin_memory', torch.cuda.is_available())
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)
            loader.setdefault('collate_fn', dict(type='default_collate'))
