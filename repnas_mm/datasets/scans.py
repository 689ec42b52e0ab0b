"""The scans behind the embedded data sets, and their one fixed split."""

import numpy as np
from sklearn.datasets import load_digits

SPLITS = ('train', 'test')


def load_scans(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Scikit-learn's scans of handwritten digits (UCI Optical Recognition of Handwritten Digits).

    Every fifth scan, from the first on, is in ``test`` (360 scans), the others are in ``train`` (1,437).

    Returns:
        Images, (N, 8, 8) uint8 with the 17 grey levels spread over 0 to 255, ink bright; labels, (N,) int64.
    """
    digits = load_digits()
    chosen = (np.arange(len(digits.target)) % 5 == 0) == (split == 'test')
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return images[chosen], digits.target[chosen].astype(np.int64)
