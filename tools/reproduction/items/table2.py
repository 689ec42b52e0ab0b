"""Table 2: size, speed and search cost, beside the stock networks that one would take instead."""

import math
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain import ModelHub, get_model
from mmpretrain.registry import DATASETS
from torch import nn

from measuring.operations import complexity
from measuring.reports import Report
from measuring.timing import describe, latencies, measuring_device
from measuring.training_cost import SECONDS_A_DAY

from ..data import place_data
from ..lab import Lab
from ..latency_plot import plot_latency
from ..paper import TABLE2
from ..scales import SCALES, Scale
from ..search_step import step_seconds
from ..shared_trainings import arch_network
from .table4 import fused_network

#: Name -> mmpretrain's name of it
STOCK = {
    'MobileNetV2': 'mobilenet-v2_8xb32_in1k',
    'MobileNetV3-large': 'mobilenet-v3-large_8xb128_in1k',
    'EfficientNet-B0': 'efficientnet-b0_3rdparty_8xb32_in1k',
    'ShuffleNetV2-1.0x': 'shufflenet-v2-1x_16xb64_in1k',
    'ResNet-18': 'resnet18_8xb32_in1k',
    'ResNet-50': 'resnet50_8xb32_in1k',
    'RepVGG-A1': 'repvgg-A1_8xb32_in1k',
    'MobileOne-s1': 'mobileone-s1_8xb32_in1k',
}
#: Those that are fused for inference
FUSED = ('RepVGG-A1', 'MobileOne-s1')
#: Images of ImageNet's training set, and GPUs of the configs for it
IMAGENET, GPUS = 1_281_167, 8
COLUMNS = {False: 'batch {} (s)', True: 'batch {}, channels_last (s)'}


def make(lab: Lab, scale: Scale, seeds: Sequence[int]) -> Report:
    """Measure everything; nothing is trained."""
    device = measuring_device()
    archs = {name: name.removeprefix('ODBB-') for name in TABLE2}
    models = {name: fused_network(lab, SCALES['imagenet'], arch) for name, arch in archs.items()}
    models |= {name: stock_network(name) for name in STOCK}
    costs = {name: complexity(model, 224) for name, model in models.items()}
    seconds = {}
    for batch_size in (128, 1):
        for channels_last, column in COLUMNS.items():
            column = column.format(batch_size)
            seconds[column] = latencies(models, batch_size, scale.image_size, channels_last, device=device)
            lab.log(f'measured: {column}')
    days = {name: search_days(lab, scale, arch, device) for name, arch in archs.items()}
    rows = []
    for name, (parameters, flops) in costs.items():
        paper = TABLE2.get(name, (None,) * 6)
        rows.append(
            {
                'model': name,
                'parameters (M)': parameters / 1e6,
                'FLOPs (G)': flops / 1e9,
                **{column: measured[name] for column, measured in seconds.items()},
                'search and training (device-days)': days.get(name),
                'mmpretrain: top-1 (%)': published(name) if name in STOCK else None,
                'paper: parameters (M)': paper[0],
                'paper: FLOPs (G)': paper[1],
                'paper: V100, batch 128 (s)': paper[2],
                'paper: Xavier, batch 1 (s)': paper[3],
                'paper: search + retraining (GPU-days)': paper[4],
                'paper: top-1 (%)': paper[5],
            }
        )
    batch_128 = {'NCHW' if not last else 'channels_last': seconds[c.format(128)] for last, c in COLUMNS.items()}
    return Report(
        'table2',
        f'Table 2: size, speed and search cost, {scale.name}',
        rows,
        {'': plot_latency(batch_128, f'seconds for 128 images of {scale.image_size} pixels')},
        notes=[
            f'Measured on {describe(device)}, in float32 without TF32, with images of {scale.image_size} pixels; all '
            'models run in turns, and seconds are medians. Parameters and FLOPs (multiply-adds of '
            'convolutions and linear layers, at 224 pixels) are those of the whole classifier of 1,000 classes. ODBB, '
            f'{" and ".join(FUSED)} are fused.',
            "Top-1 of the stock networks on ImageNet is what mmpretrain's metafiles report; the weights of "
            "EfficientNet-B0 are converted from its authors', the others were trained with mmpretrain.",
            'Search and training are one run, priced as the median step on random images, on the same device, before '
            f'and behind the cut where there is one, times the steps of {_schedule(scale)}.',
        ],
    )


def stock_network(name: str) -> nn.Module:
    """One of `STOCK`, untrained, fused if it can be."""
    return get_model(STOCK[name], **(dict(backbone=dict(deploy=True)) if name in FUSED else {}))


def published(name: str) -> float:
    """Top-1 of one of `STOCK` on ImageNet, in %, from mmpretrain's metafile."""
    return ModelHub.get(STOCK[name]).results[0].metrics['Top 1 Accuracy']


def search_days(lab: Lab, scale: Scale, arch: str, device) -> float:
    """Days of one device that the whole schedule of an arch's search takes."""
    cfg = arch_network(scale, 'odbb', arch, 0).load_config(lab.configs)
    if scale.name == 'imagenet':
        images, devices = IMAGENET, GPUS
    else:
        images, devices = _training_images(lab, cfg), 1
    steps = cfg.train_cfg.max_epochs * math.ceil(images / (devices * cfg.train_dataloader.batch_size))
    seconds = step_seconds(cfg, device)
    lab.log(f'measured: {seconds:.3g} s a step of the search of {arch}, {steps:,} steps')
    return steps * seconds * devices / SECONDS_A_DAY


def _training_images(lab: Lab, cfg: Config) -> int:
    if lab.data_root is not None:
        place_data(cfg, lab.data_root)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return len(DATASETS.build(cfg.train_dataloader.dataset))


def _schedule(scale: Scale) -> str:
    if scale.name == 'imagenet':
        return f'the ImageNet config, on {GPUS} devices with 32 images each'
    return f"the scale's own schedule, for the scale's networks ({scale.base_channels}/64 of the width)"
