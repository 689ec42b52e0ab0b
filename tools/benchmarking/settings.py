"""The settings of the benchmark: arch, images and precision."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor

from repnas_mm.engine.step_cost import image_shape
from repnas_mm.models import ODBBBackbone

DIGITS = Path(__file__).resolve().parents[2] / 'configs' / 'odbb_digits.py'


@dataclass(frozen=True)
class Setting:
    """Networks of one arch on square images, and how they are trained.

    Args:
        arch: One of `ODBBBackbone`'s, or a name of your own for ``layout``.
        image_size: Side of the images, in pixels.
        batch_size: Images of a step.
        amp: Type of mixed precision, such as ``bfloat16``; None is float32.
        tf32: Let a GPU round the inputs of float32 convolutions to TF32, as torch does by default.
        channels_last: Keep weights and images as NHWC.
        device: Type of the device.
        base_channels: Width.
        in_channels: Channels of the images.
        layout: What `ODBBBackbone` takes as ``arch``, if not one of its own.
    """

    arch: str
    image_size: int = 160
    batch_size: int = 8
    amp: str | None = None
    tf32: bool = True
    channels_last: bool = False
    device: str = 'cpu'
    base_channels: int = 64
    in_channels: int = 3
    layout: Mapping | None = None

    def __str__(self) -> str:
        return f'{self.arch}, {self.batch_size} × {self.image_size}²'

    @property
    def precision(self) -> str:
        """Name of the numbers that convolutions multiply."""
        return self.amp or ('TF32' if self.tf32 and self.device == 'cuda' else 'float32')

    @property
    def out_channels(self) -> int:
        """Channels of the last feature map."""
        factors = (self.layout or ODBBBackbone.arch_settings[self.arch])['width_factor']
        return int(self.base_channels * 2 ** (len(factors) - 1) * factors[-1])

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of weights and images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """Context of the forward pass."""
        return torch.autocast(self.device, self.amp and getattr(torch, self.amp), self.amp is not None)

    def images(self) -> Tensor:
        """(N, C, H, W) of noise."""
        images = torch.randn(self.batch_size, self.in_channels, self.image_size, self.image_size)
        return images.to(self.device, memory_format=self.memory_format)


def digits() -> Setting:
    """The small network of ``configs/odbb_digits.py``, at its own batch and image size."""
    cfg = Config.fromfile(DIGITS)
    batch_size, in_channels, image_size, _ = image_shape(cfg)
    backbone = cfg.model.backbone.to_dict()
    return Setting(
        'digits',
        image_size,
        batch_size,
        base_channels=backbone['base_channels'],
        in_channels=in_channels,
        layout=backbone['arch'],
    )


#: Name on the command line -> what makes the setting, and how many draws of the branches its mean is over. The numbers
#: keep the bytes and the step of all three, and the fast paths of all three, within twelve minutes each on two cores.
NAMED = {
    'a0-160': (lambda: Setting('A0'), 6),
    'a0-224': (lambda: Setting('A0', 224, 32), 2),
    'digits': (digits, 40),
}
