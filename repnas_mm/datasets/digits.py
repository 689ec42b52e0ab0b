"""Real images that need no download: the scanned digits that scikit-learn ships."""

import numpy as np
from mmpretrain.datasets import BaseDataset
from sklearn.datasets import load_digits

from ..registry import register


@register('DATASETS')
class Digits(BaseDataset):
    """1,797 scans of handwritten digits, 8×8 pixels, 10 classes (UCI Optical Recognition of Handwritten Digits).

    The split is fixed: every fifth image, from the first on, is in ``test`` (360 images), the others are in ``train``
    (1,437).

    Args:
        split (str): ``train`` or ``test``. Defaults to ``train``.
        metainfo (dict, optional): Defaults to None.
        **kwargs: ``pipeline``, ``indices``, ``test_mode``, ... of mmpretrain's BaseDataset.

    Each item has ``img``, (8, 8, 1) uint8 with the 17 grey levels spread over 0 to 255, and ``gt_label``.
    """

    METAINFO = {'classes': tuple('0123456789')}

    def __init__(self, split: str = 'train', metainfo: dict | None = None, **kwargs):
        if split not in ('train', 'test'):
            raise ValueError(f"split of Digits must be 'train' or 'test', got {split!r}.")
        self.split = split
        super().__init__(ann_file='', metainfo=metainfo, **kwargs)

    def load_data_list(self) -> list[dict]:
        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        return [
            dict(img=image, gt_label=np.array(label, dtype=np.int64))
            for i, (image, label) in enumerate(zip(images, digits.target))
            if (i % 5 == 0) == (self.split == 'test')
        ]

    def extra_repr(self) -> list[str]:
        return [f'Split: \t{self.split}']
