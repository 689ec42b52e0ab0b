"""Train, or search, from a config: `python tools/train.py configs/odbb_a0_imagenet.py`."""

import argparse

from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from repnas_mm.engine import SafeLoadHook
from repnas_mm.engine.last_checkpoint import resume_from
from repnas_mm.utils.cli import add_runner_arguments, leave_ranks, load_config


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a config of any OpenMMLab project')
    add_runner_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from this checkpoint, or without a value from the newest in the work dir',
    )
    parser.add_argument('--no-validate', action='store_true', help='do not validate during training')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the lr with the actual batch size')
    return parser.parse_args(argv)


def main(argv=None) -> None:
    args = parse_args(argv)
    cfg = load_config(args)
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError(f"--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in '{args.config}'.")
        cfg.auto_scale_lr.enable = True
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.resume is not None:
        resume_from(cfg, None if args.resume == 'auto' else args.resume)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.register_hook(SafeLoadHook())  # for configs with none of our hooks
    runner.train()
    leave_ranks()


if __name__ == '__main__':
    main()
