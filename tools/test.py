"""Test a search, subnet or fused checkpoint: `python tools/test.py CONFIG CHECKPOINT`."""

import argparse

import mmengine
from mmengine.evaluator import DumpResults
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from repnas_mm.engine import SafeLoadHook
from repnas_mm.utils.cli import add_runner_arguments, leave_ranks, load_config


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a config of any OpenMMLab project')
    parser.add_argument('checkpoint')
    add_runner_arguments(parser)
    parser.add_argument('--out', help='write metrics (.json, .yml) or predictions (.pkl) to this file')
    return parser.parse_args(argv)


def main(argv=None) -> dict:
    args = parse_args(argv)
    if args.out and not args.out.endswith(('.json', '.yml', '.yaml', '.pkl', '.pickle')):
        raise ValueError(f"--out '{args.out}' must end with .json or .yml (metrics) or .pkl (predictions).")
    cfg = load_config(args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.amp:
        cfg.test_cfg.fp16 = True
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.register_hook(SafeLoadHook())  # for configs with none of our hooks
    if args.out and args.out.endswith(('.pkl', '.pickle')):
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    metrics = runner.test()
    if args.out and args.out.endswith(('.json', '.yml', '.yaml')):
        mmengine.dump(metrics, args.out)
    leave_ranks()
    return metrics


if __name__ == '__main__':
    main()
