"""Fuse a search or subnet checkpoint into one convolution a block.

Writes OUT (a .pth) and beside it the config that loads it, after checking on random images that the output is the
same: `python tools/fuse.py CONFIG CHECKPOINT OUT`.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config

from repnas_mm.checks import explain_errors
from repnas_mm.engine.checkpoint import build_model, deploy_config, load_file, save_fused, save_model, source_meta
from repnas_mm.engine.fusing import fuse_checked, is_fused, raw_output
from repnas_mm.engine.input_shapes import image_shape
from repnas_mm.engine.repvgg_format import to_repvgg


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='the config of the search (also for a subnet checkpoint), or of the subnet')
    parser.add_argument('checkpoint')
    parser.add_argument('out', type=Path, help='fused checkpoint to write, .pth')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=3,
        metavar=('C', 'H', 'W'),
        help="of the images to check with; by default the network's channels and 224 224",
    )
    parser.add_argument('--repvgg-keys', action='store_true', help="write it for mmpretrain's own RepVGG instead")
    args = parser.parse_args(argv)
    if args.out.suffix != '.pth':
        parser.error(f"OUT '{args.out}' must end with .pth")
    return args


def main(argv=None) -> None:
    args = parse_args(argv)
    cfg = Config.fromfile(args.config)
    checkpoint = load_file(args.checkpoint)
    model = build_model(cfg, checkpoint)
    if is_fused(model):
        raise ValueError(f"Checkpoint '{args.checkpoint}' is fused already.")
    images = torch.randn(2, *(args.shape or image_shape(model)), generator=torch.Generator().manual_seed(0))
    with explain_errors(f'The network does not take images of shape {tuple(images.shape[1:])}, give others by --shape'):
        raw_output(model, images)
    fused = fuse_checked(model, partial(raw_output, inputs=images))
    if args.repvgg_keys:
        state, stock_cfg = to_repvgg(model.state_dict(), deploy_config(cfg))
        save_model(state, args.out, stock_cfg, **source_meta(checkpoint))
    else:
        save_fused(model, args.out, cfg, fused.new_biases, **source_meta(checkpoint))
    print(f'Fused checkpoint: {args.out}, its config: {args.out.with_suffix(".py")}')
    print(f'Largest difference to the unfused model: {fused.difference:.1e} of the largest output')
    if fused.new_biases:
        print(fused.note_on_biases())


if __name__ == '__main__':
    main()
