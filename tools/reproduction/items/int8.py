"""Networks in 8 bits: what they lose, what mends it, and where the outliers among their weights come from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint
from torch import Tensor, nn

from measuring import int8
from measuring.reports import Mean, Report
from repnas_mm.engine.checkpoint import build_model, load_file
from repnas_mm.engine.equalizing import equalize
from repnas_mm.engine.fusing import raw_output
from repnas_mm.search import find_blocks

from ..data import place_data
from ..lab import Lab
from ..scales import Scale
from ..shared_trainings import ACCURACY, network
from ..training import Training
from .deep import HAND_MADE

IMAGES = 512
FILES = ('float', 'INT8', 'INT8, equalized', 'INT8 per tensor', 'INT8 per tensor, equalized')
#: Of weights alone, coarse enough to show what outliers among them cost
BITS = 6
COARSE = (f'{BITS}-bit weights per tensor', f'{BITS}-bit weights per tensor, equalized')


def make(lab: Lab, scale: Scale, seeds: Sequence[int]) -> Report:
    """Quantize the networks of the item ``deep``."""
    trainings = {m: [network(scale.deep.format(m), s) for s in seeds] for m in ('odbb', *HAND_MADE)}
    return quantized(lab, trainings, 'int8', f'The networks of 40 layers in 8 bits, {scale.name}')


def quantized(lab: Lab, trainings: Mapping[str, Sequence[Training]], name: str, title: str) -> Report:
    """Train every row with every seed and quantize it.

    Args:
        trainings: Block -> trainings that differ in the seed.
        name, title: Of the report.
    """
    results = lab.run(t for group in trainings.values() for t in group)
    rows, peaks = [], {}
    for method, group in trainings.items():
        scores, outliers = [], Counter()
        for training in group:
            cfg, folder = training.load_config(lab.configs), results[training].folder
            if lab.data_root is not None:
                place_data(cfg, lab.data_root)
            last = folder / Path(find_latest_checkpoint(str(folder))).name  # the folder may have moved
            outliers += largest_from(build_model(cfg, load_file(last)))
            model = build_model(cfg, load_file(folder / 'fused.pth')).eval()
            batches = int8.calibration_batches(cfg, model, IMAGES)
            if training is group[0]:
                peaks[method] = peaks_of(model, torch.from_numpy(batches[0]))
            balanced = {per_channel: equalized(model, batches, per_channel) for per_channel in (True, False)}
            scores.append(top1_of_files(cfg, model, balanced, batches))
            coarse = {form: with_coarse_weights(m) for form, m in zip(COARSE, (model, balanced[False]))}
            scores[-1] |= {form: metrics[ACCURACY] for form, metrics in int8.metrics(cfg, coarse).items()}
            lab.log(f'{training.name}: {", ".join(f"{form} {score:.2f}" for form, score in scores[-1].items())}')
        rows.append(
            {'block': method, 'seeds': len(group)}
            | {f'{form}: top-1 (%)': Mean(tuple(score[form] for score in scores)) for form in (*FILES, *COARSE)}
            | {'largest weight ÷ rms': float(np.median(peaks[method][0]))}
            | {'largest weight from': ', '.join(f'{branch} {count}' for branch, count in outliers.most_common(3))}
        )
    return Report(
        name,
        title,
        rows,
        {'': plot_peaks(peaks)},
        [
            f'Fused networks in ONNX Runtime, calibrated on {IMAGES} training images (minimum and maximum), 8-bit '
            'activations, and weights with a scale for each output channel or, `per tensor`, one for each layer. '
            '`equalized` balances the channels of consecutive layers first, exact in float: against activations, or, '
            'per tensor, against weights.',
            f'`{COARSE[0]}` rounds weights alone, to fewer bits than any of the files has, to show which networks '
            'would lose accuracy first.',
            '`largest weight ÷ rms` is of a fused layer, the median over layers of the first seed. `largest weight '
            'from` counts over layers and seeds which branch gives most of the largest weight of a fused layer.',
            'The figure shows for each layer the largest absolute weight, and the largest activation behind it on 32 '
            'training images, each as a multiple of its root mean square; first seed.',
        ],
    )


def equalized(model: nn.Module, batches: Sequence[np.ndarray], per_channel: bool) -> nn.Module:
    """A copy with balanced channels."""
    model = deepcopy(model)
    equalize(model, torch.from_numpy(batches[0]), per_channel)
    return model


def top1_of_files(
    cfg: Config, model: nn.Module, balanced: Mapping[bool, nn.Module], batches: Sequence[np.ndarray]
) -> dict[str, float]:
    """Top-1 on the test set in ONNX Runtime, for each of `FILES`; ``balanced`` is by ``per_channel`` of `equalized`."""
    with TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f'{i}.onnx' for i, name in enumerate(FILES)}
        int8.export_float(model, paths['float'], batches[0].shape[1:])
        for name, per_channel in (('INT8', True), ('INT8 per tensor', False)):
            int8.quantize(paths['float'], paths[name], batches, per_channel)
            int8.export_float(balanced[per_channel], Path(folder) / 'equalized.onnx', batches[0].shape[1:])
            int8.quantize(Path(folder) / 'equalized.onnx', paths[f'{name}, equalized'], batches, per_channel)
        models = {name: int8.through_onnx(model, path) for name, path in paths.items()}
        return {name: metrics[ACCURACY] for name, metrics in int8.metrics(cfg, models).items()}


@torch.no_grad()
def with_coarse_weights(model: nn.Module) -> nn.Module:
    """A copy whose layers have weights of `BITS` bits, one scale a layer, and everything else in float."""
    model = deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            step = layer.weight.abs().max() / (2 ** (BITS - 1) - 1)
            layer.weight.copy_((layer.weight / step).round() * step)
    return model


@torch.no_grad()
def largest_from(model: nn.Module) -> Counter:
    """Branch -> number of blocks whose largest fused weight it gives most of."""
    found = Counter()
    for block in find_blocks(model).values():
        kernels = {name: block.branches[name].equivalent(block.kernel)[0] for name in block.active_branches}
        index = sum(kernels.values()).abs().argmax()
        found[max(kernels, key=lambda name: kernels[name].flatten()[index].abs())] += 1
    return found


def peaks_of(model: nn.Module, images: Tensor) -> tuple[list[float], list[float]]:
    """Of each block's fused weights and of its output: largest absolute value ÷ root mean square."""
    blocks, outputs = list(find_blocks(model).values()), []
    handles = [block.register_forward_hook(lambda *args: outputs.append(_peak(args[2]))) for block in blocks]
    raw_output(model, images)
    for handle in handles:
        handle.remove()
    return [_peak(block.reparam.weight.detach()) for block in blocks], outputs


def _peak(x: Tensor) -> float:
    return float(x.abs().max() / x.square().mean().sqrt())


def plot_peaks(peaks: Mapping[str, tuple[list[float], list[float]]]) -> Figure:
    """Two panels, weights and activations: a line for each block over the layers."""
    figure = Figure(figsize=(7.2, 3.2), layout='constrained')
    panels = figure.subplots(1, 2)
    for axes, title, i in zip(panels, ('weights', 'activations'), (0, 1)):
        for method, values in peaks.items():
            axes.plot(range(1, len(values[i]) + 1), values[i], label=method, linewidth=1.2)
        axes.set(title=title, xlabel='layer', ylim=(0, None))
        axes.grid(color='#dddddd', linewidth=0.6)
    panels[0].set_ylabel('largest ÷ root mean square')
    figure.legend(*panels[0].get_legend_handles_labels(), loc='outside right upper', fontsize=8)
    return figure
