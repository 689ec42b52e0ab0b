"""Turn a search checkpoint into a genotype, its picture and the multi-branch subnet checkpoint.

Writes genotype.json, genotype.png, genotype.svg, subnet.pth and subnet.py into OUT_DIR. Unless the search had frozen
its genotype, the subnet's BN statistics are recalibrated on training images:
`python tools/export_subnet.py CONFIG CHECKPOINT OUT_DIR`.
"""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from repnas_mm.engine.checkpoint import build_model, load_file, source_meta
from repnas_mm.engine.export import export_search
from repnas_mm.engine.recalibrate import recalibrate
from repnas_mm.utils import check_writable
from repnas_mm.utils.cli import set_loader_defaults


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='the config of the search')
    parser.add_argument('checkpoint', help='a checkpoint of the search')
    parser.add_argument('out_dir', type=Path)
    parser.add_argument(
        '--no-recalibrate', action='store_true', help='keep BN statistics as they are (needs no training images)'
    )
    return parser.parse_args(argv)


def main(argv=None) -> None:
    args = parse_args(argv)
    check_writable(args.out_dir)
    cfg = Config.fromfile(args.config)
    checkpoint = load_file(args.checkpoint)
    if 'repnas' not in checkpoint:
        raise ValueError(f"Checkpoint '{args.checkpoint}' was not written by a search and has no genotype.")
    model = build_model(cfg, checkpoint)
    if checkpoint['repnas']['genotype'] is None and not args.no_recalibrate:
        set_loader_defaults(cfg)
        recalibrate(model, Runner.build_dataloader(cfg.train_dataloader, seed=0))
    source = dict(config=Path(args.config).name, checkpoint=Path(args.checkpoint).name)
    genotype = export_search(model, args.out_dir, cfg, source, **source_meta(checkpoint))
    print(f'{genotype} in {args.out_dir}: genotype.json, genotype.png, genotype.svg, subnet.pth, subnet.py')


if __name__ == '__main__':
    main()
