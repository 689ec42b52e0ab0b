"""Table 5: searched networks as backbones of a detector, beside ResNets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from measuring.reports import Mean, Report
from measuring.timing import describe, latencies, measuring_device
from repnas_mm.datasets import write_coco_digits
from repnas_mm.engine.checkpoint import deploy_config

from ..lab import Lab
from ..paper import TABLE5
from ..scales import Scale
from ..shared_trainings import network
from ..tradeoff import plot_tradeoff
from ..training import Training
from ..transfer import backbone_from, classification_options, count_taken_over

AP = 'coco/bbox_mAP'
#: Schedule of the digits detectors, shorter than their configs'
EPOCHS = 4


@dataclass(frozen=True)
class Row:
    """A backbone of the table.

    Args:
        paper: Its name in the paper, or of the one that it stands for.
        detector: Config that trains the detector.
        classification: Config that trains the backbone before.
        name: What it is, if it only stands for the paper's.
        options: Settings that make the detector's config this row's; the backbone is then trained as it has them.
    """

    paper: str
    detector: str
    classification: str
    name: str = ''
    options: Mapping = field(default_factory=dict, hash=False)

    def classification_training(self, configs: Path, seed: int) -> Training:
        """The training of the backbone. Those of the paper are shared with Table 4."""
        if not self.options:
            return network(self.classification, seed)
        detector = network(self.detector, seed, **self.options).load_config(configs)
        return network(self.classification, seed, self._tag, **classification_options(detector))

    def detector_training(self, seed: int, classification: Path) -> Training:
        """The training of the detector from the backbone that was left in the folder ``classification``."""
        backbone = {f'model.backbone.{key}': value for key, value in backbone_from(classification).items()}
        return network(self.detector, seed, self._tag, **self.options, **backbone)

    @property
    def _tag(self) -> str:
        return self.name.replace(' ', '-')


COCO = (
    Row('ResNet-18', 'centernet_resnet18', 'resnet18_imagenet'),
    Row('ODBB-A0', 'centernet_odbb_a0', 'odbb_a0_imagenet'),
    Row('ResNet-101', 'centernet_resnet101', 'resnet101_imagenet'),
    Row('ODBB-B3', 'centernet_odbb_b3', 'odbb_b3_imagenet'),
)


def digits_rows() -> tuple[Row, ...]:
    """A light and a heavy pair for the embedded COCO; 32 and 48 channels are those of the last feature."""
    return (
        _resnet('ResNet-18', 'light ResNet', 32),
        _odbb('ODBB-A0', 'light ODBB', 32),
        _resnet('ResNet-101', 'heavy ResNet', 48),
        _odbb('ODBB-B3', 'heavy ODBB', 48),
    )


def _resnet(paper: str, name: str, channels: int) -> Row:
    width = channels // 2
    options = dict(model__backbone__stem_channels=width, model__backbone__base_channels=width)
    return Row(paper, 'centernet_resnet18_digits', 'odbb_digits', name, _short(channels) | options)


def _odbb(paper: str, name: str, channels: int) -> Row:
    options = dict(
        model__backbone__base_channels=channels // 4,
        # the search is over when the detector starts
        custom_hooks=[dict(type='FuseHook')],
        find_unused_parameters=False,
    )
    return Row(paper, 'centernet_odbb_digits', 'odbb_digits', name, _short(channels) | options)


def _short(channels: int) -> dict:
    return dict(
        model__neck__in_channels=channels,
        train_cfg__max_epochs=EPOCHS,
        train_cfg__val_interval=EPOCHS,
        param_scheduler__1__T_max=EPOCHS - 1,
        param_scheduler__1__end=EPOCHS,
    )


def make(lab: Lab, scale: Scale, seeds: Sequence[int]) -> Report:
    """Train every backbone on classification and a detector from it; measure the fused detectors' latency."""
    if find_spec('mmdet') is None:
        raise ModuleNotFoundError("Table 5 trains detectors, for which mmdet is missing: pip install 'mmdet>=3.0.0'.")
    if scale.name == 'coco':
        rows, data_root, notes = COCO, lab.data_root, []
    else:
        rows, data_root, notes = digits_rows(), _coco_digits(lab), _digits_notes()
        seeds = seeds[:1]
    # the longest first, so that in the end no process is left with one of them
    order = [(row, s) for row in reversed(rows) for s in seeds]
    classifications = {(row, s): row.classification_training(lab.configs, s) for row, s in order}
    trained = lab.with_data(None).run(classifications.values())
    detectors = {(r, s): r.detector_training(s, trained[t].folder) for (r, s), t in classifications.items()}
    configs = {key: t.load_config(lab.configs) for key, t in detectors.items()}
    for cfg in configs.values():
        count_taken_over(cfg, cfg.model.backbone.init_cfg.checkpoint)
    results = lab.with_data(data_root).run(detectors.values())
    device = measuring_device()
    models = {row: fused_detector(configs[row, seeds[0]]) for row in rows}
    size = image_size(configs[rows[0], seeds[0]])
    seconds = latencies(models, 1, size, channels_last=False, device=device)
    means = {row: Mean(tuple(results[detectors[row, s]].metrics[AP] * 100 for s in seeds)) for row in rows}
    points = {row.name or row.paper: [(seconds[row], mean.mean, mean.error)] for row, mean in means.items()}
    return Report(
        'table5',
        f'Table 5: backbones of CenterNet, {scale.name}',
        [_table_row(row, mean, seconds[row]) for row, mean in means.items()],
        {'': plot_tradeoff({}, points, 'seconds an image', 'AP (%)')},
        notes=[
            'AP is that of the fused detector. Seconds are those of its forward without the decoding of boxes, for '
            f'one image of {size} pixels on {describe(device)}, in float32 without TF32; all detectors run in turns, '
            'and seconds are medians. The paper does not say on what it measured.',
            *notes,
        ],
    )


def fused_detector(cfg: Config) -> nn.Module:
    """The detector of a training's config as it is deployed; its weights are not the trained ones."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(deploy_config(cfg).model)


def image_size(cfg: Config) -> int:
    """Side of the images that a CenterNet is trained on, in pixels."""
    return next(step.crop_size[0] for step in cfg.train_pipeline if step.type == 'RandomCenterCropPad')


def _table_row(row: Row, mean: Mean, seconds: float) -> dict:
    ap, paper_seconds = TABLE5[row.paper]
    named = {'backbone': row.name, 'in the place of': row.paper} if row.name else {'backbone': row.paper}
    return named | {
        'seeds': len(mean.values),
        'AP (%)': mean,
        'seconds an image': seconds,
        'paper, COCO: AP (%)': ap,
        'paper: seconds': paper_seconds,
    }


def _coco_digits(lab: Lab) -> str:
    """The embedded COCO, made if it does not exist."""
    folder = Path(lab.data_root or lab.folder / 'coco_digits')
    if not folder.exists():
        write_coco_digits(folder)
        lab.log(f'made: {folder}')
    return str(folder)


def _digits_notes() -> list[str]:
    return [
        'The backbones are trained, those of ODBB searched, on the digit scans as color images of 32 pixels; the '
        f'detectors then for {EPOCHS} epochs on the embedded COCO, whose images show digits of 14 to 48 pixels. The '
        'ResNets are the first two stages of ResNet-18, narrower. All networks end at stride 8, the light ones with 32 '
        'channels and the heavy ones with 48.',
        'One seed only, whatever is asked for: this shows that the whole chain runs, not which backbone is better.',
    ]
