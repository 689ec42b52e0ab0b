"""Real images that need no download: the scanned digits that scikit-learn ships."""

import numpy as np
from mmpretrain.datasets import BaseDataset

from ..registry import register
from .scans import SPLITS, load_scans


@register('DATASETS')
class Digits(BaseDataset):
    """1,797 scans of handwritten digits, 8×8 pixels, 10 classes (UCI Optical Recognition of Handwritten Digits).

    The split is fixed: every fifth image, from the first on, is in ``test`` (360 images), the others are in ``train``
    (1,437).

    Args:
        split (str): ``train`` or ``test``. Defaults to ``train``.
        channels (int): 1, or 3 for networks that take color images: the same grey three times. Defaults to 1.
        metainfo (dict, optional): Defaults to None.
        **kwargs: ``pipeline``, ``indices``, ``test_mode``, ... of mmpretrain's BaseDataset.

    Each item has ``img``, (8, 8, channels) uint8 with the 17 grey levels spread over 0 to 255, and ``gt_label``.
    """

    METAINFO = {'classes': tuple('0123456789')}

    def __init__(self, split: str = 'train', channels: int = 1, metainfo: dict | None = None, **kwargs):
        if split not in SPLITS:
            raise ValueError(f"split of Digits must be 'train' or 'test', got {split!r}.")
        if channels not in (1, 3):
            raise ValueError(f'channels of Digits must be 1 or 3, got {channels!r}.')
        self.split, self.channels = split, channels
        super().__init__(ann_file='', metainfo=metainfo, **kwargs)

    def load_data_list(self) -> list[dict]:
        images, labels = load_scans(self.split)
        images = np.repeat(images[..., None], self.channels, axis=-1)
        return [dict(img=image, gt_label=np.array(label)) for image, label in zip(images, labels)]

    def extra_repr(self) -> list[str]:
        return [f'Split: \t{self.split}']
