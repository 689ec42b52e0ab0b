"""Figure 1: accuracy against the latency of 128 images."""

from collections.abc import Sequence

from mmpretrain import get_model

from measuring.reports import Mean, Report
from measuring.timing import describe, latencies, measuring_device

from ..lab import Lab
from ..paper import TABLE2, TABLE4
from ..scales import ARCHS, Scale
from ..shared_trainings import accuracy, network
from ..tradeoff import plot_tradeoff
from .table2 import STOCK, published, stock_network
from .table4 import LABELS, fused_network, trained

#: Stock networks that small scales train: name -> config, without the scale's name
TRAINED = {'MobileNetV2, 1/4': 'mobilenetv2', 'ShuffleNetV2, 1/2': 'shufflenetv2', 'ResNet-18, 1/8': 'resnet18'}


def make(lab: Lab, scale: Scale, seeds: Sequence[int]) -> Report:
    """Run the trainings of Table 4 and those of stock networks, and measure the latency of all."""
    groups = trained(lab, scale, seeds)
    # (series of the figure, network) -> top-1, measured or published
    top1: dict[tuple[str, str], Mean | float] = {
        (LABELS[m], arch): accuracy(group) for (m, arch), group in groups.items()
    }
    models = {arch: fused_network(lab, scale, arch) for arch in ARCHS}
    if scale.name == 'imagenet':
        names = [name for name in STOCK if not name.startswith('RepVGG')]  # that one is trained here
        top1 |= {(name.partition('-')[0], name): published(name) for name in names}
        models |= {name: stock_network(name) for name in names}
    else:
        stock = {name: [network(f'{config}_{scale.name}', s) for s in seeds] for name, config in TRAINED.items()}
        results = lab.run(t for group in stock.values() for t in group)
        top1 |= {(name, name): accuracy(results[t] for t in group) for name, group in stock.items()}
        models |= {name: get_model(group[0].load_config(lab.configs)) for name, group in stock.items()}
    device = measuring_device()
    channels = {name: model._config.model.backbone.get('in_channels', 3) for name, model in models.items()}
    seconds = latencies(models, 128, scale.image_size, channels_last=False, in_channels=channels, device=device)
    series: dict[str, list] = {}
    for (name, key), value in top1.items():
        y = (value.mean, value.error) if isinstance(value, Mean) else (value, 0.0)
        series.setdefault(name, []).append((seconds[key], *y))
    curves = {name: series.pop(name) for name in LABELS.values()}
    return Report(
        'figure1',
        f'Figure 1: accuracy against latency, {scale.name}',
        [_row(name, key, seconds[key], value) for (name, key), value in top1.items()],
        {'': plot_tradeoff(curves, series, 'seconds for 128 images', 'top-1 (%)', logarithmic=True)},
        notes=[
            f'Measured on {describe(device)}, in float32 without TF32, with images of {scale.image_size} pixels; all '
            'networks run in turns, and seconds are medians. ODBB and RepVGG are fused, which makes them one network '
            'with other weights: one latency is that of both. Bars are standard errors over seeds.',
            "Top-1 of the stock networks is what mmpretrain's metafiles report."
            if scale.name == 'imagenet'
            else 'The stock networks are trained on the same schedule. All are at a fraction of their width, ODBB and '
            f'RepVGG at {scale.base_channels}/64.',
            'The figure of the paper compares with networks of other searches, on a V100.',
        ],
    )


def _row(series: str, key: str, seconds: float, top1: Mean | float) -> dict:
    """A row of the table; what is published, and what the paper has, is in columns of its own."""
    name = f'{series}-{key}' if key in ARCHS else key
    row = {'model': name, 'batch 128 (s)': seconds}
    if not isinstance(top1, Mean):
        return row | {'mmpretrain: top-1 (%)': top1}
    row |= {'seeds': len(top1.values), 'top-1 (%)': top1}
    if key in ARCHS:
        row['paper, ImageNet: top-1 (%)'] = TABLE4[key][3 if series == LABELS['odbb'] else 2]
    if name in TABLE2:
        row['paper: V100, batch 128 (s)'] = TABLE2[name][2]
    return row
