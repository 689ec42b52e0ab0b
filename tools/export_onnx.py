"""Write a fused checkpoint (or fuse a search or subnet checkpoint first) as ONNX, checked in ONNX Runtime.

The network takes normalized images and gives raw outputs: `python tools/export_onnx.py CONFIG CHECKPOINT OUT.onnx`.
"""

import argparse
from pathlib import Path

from mmengine.config import Config

from repnas_mm.engine.checkpoint import build_model, load_file
from repnas_mm.engine.deployment import export_onnx
from repnas_mm.engine.fusing import fuse_model, is_fused
from repnas_mm.engine.input_shapes import image_shape
from repnas_mm.search import find_blocks


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='the config of the fused model, the search or the subnet')
    parser.add_argument('checkpoint')
    parser.add_argument('out', type=Path, help='ONNX file to write')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=3,
        metavar=('C', 'H', 'W'),
        help="of an image; by default the network's channels and 224 224",
    )
    return parser.parse_args(argv)


def main(argv=None) -> None:
    args = parse_args(argv)
    model = build_model(Config.fromfile(args.config), load_file(args.checkpoint))
    if find_blocks(model) and not is_fused(model):
        fuse_model(model)
    difference = export_onnx(model, args.out, args.shape or image_shape(model))
    print(f'{args.out}: ONNX Runtime differs from torch by {difference:.1e} of the largest output')


if __name__ == '__main__':
    main()
