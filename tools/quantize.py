"""Write a fused checkpoint as ONNX with 8-bit weights and activations, and report what that costs.

Calibrates on training images and tests both networks in ONNX Runtime, on the config's test set:
`python tools/quantize.py CONFIG CHECKPOINT OUT.onnx`.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from mmengine.config import Config

from measuring import int8
from measuring.reports import to_markdown
from measuring.timing import describe
from repnas_mm.engine.checkpoint import build_model, load_file
from repnas_mm.engine.deployment import check_onnx
from repnas_mm.engine.equalizing import equalize
from repnas_mm.engine.fusing import is_fused
from repnas_mm.search import find_blocks


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='the config of the fused network')
    parser.add_argument('checkpoint', help='the fused network')
    parser.add_argument('out', type=Path, help='ONNX file to write')
    parser.add_argument('--images', type=int, default=512, help='training images to calibrate with (default 512)')
    parser.add_argument('--per-tensor', action='store_true', help='one scale for the weights of a layer, not a channel')
    parser.add_argument(
        '--equalize', action='store_true', help='balance the channels of consecutive layers first, exact in float'
    )
    args = parser.parse_args(argv)
    if args.images < 1:
        parser.error('--images must be at least 1: calibration needs images')
    return args


def main(argv=None) -> None:
    args = parse_args(argv)
    check_onnx()
    cfg = Config.fromfile(args.config)
    model = build_model(cfg, load_file(args.checkpoint)).eval()
    if find_blocks(model) and not is_fused(model):
        raise ValueError(f"Checkpoint '{args.checkpoint}' is not fused: python tools/fuse.py CONFIG CHECKPOINT OUT.")
    batches = int8.calibration_batches(cfg, model, args.images)
    if args.equalize:
        print(f'Equalized {equalize(model, torch.from_numpy(batches[0]), not args.per_tensor)} pairs of layers')
    with TemporaryDirectory() as folder:
        paths = {'float': Path(folder) / 'float.onnx', 'INT8': args.out}
        int8.export_float(model, paths['float'], batches[0].shape[1:])
        in_float = int8.quantize(paths['float'], args.out, batches, not args.per_tensor)
        metrics = int8.metrics(cfg, {name: int8.through_onnx(model, path) for name, path in paths.items()})
        noise = int8.noise(*paths.values(), batches[0][:8])
        latency = int8.latency(paths, batches[0][:1])
    for name in in_float:
        print(f"Layer '{name}' stays in float: ONNX Runtime does not quantize it.")
    rows = [{'': metric, **{name: metrics[name][metric] for name in paths}} for metric in metrics['float']]
    rows.append({'': f'ms an image, {describe(torch.device("cpu"))}', **latency})
    print(f'\n{to_markdown(rows)}\n\nLayers with the lowest signal-to-noise ratios:\n\n{to_markdown(noise[:5])}')


if __name__ == '__main__':
    main()
