"""A detection data set that needs no download: real digit scans on textured canvases, in COCO's layout."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from .scans import SPLITS, load_scans

CLASSES = tuple('0123456789')
#: Digits an image gets, fewest and most; one that finds no place is left out.
DIGITS = (3, 8)
#: Heights of a digit's ink in pixels, smallest and largest, log-uniform between.
HEIGHTS = (14, 48)
#: Smallest part of a digit's ink that stays visible under the digits drawn over it.
VISIBLE = 0.7
#: Ink is lighter than the texture behind it, by at least this luminance, of 255.
CONTRAST = 90
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_FOLDERS = dict(train='train2017', test='val2017')


def write_coco_digits(
    folder: str | Path, num_train: int = 2000, num_val: int = 200, image_size: int = 128, seed: int = 0
) -> None:
    """Write images and annotations as the 2017 edition of COCO has them.

    ``train2017`` shows only scans of the train split of `Digits`, ``val2017`` only scans of its test split. A digit is
    placed only where it leaves every digit below it `VISIBLE`; all digits in the images are annotated. Boxes are tight
    around the visible ink; ``segmentation`` is the polygon of the box and ``area`` its area. Categories 1 to 10 are
    the digits 0 to 9.

    The same arguments give the same files, byte for byte, and an image does not depend on how many there are.

    Args:
        folder: Must be empty or not exist; it appears when everything is written.
        num_train: Images in ``train2017``.
        num_val: Images in ``val2017``.
        image_size: Height and width of all images in pixels, at least 64.
        seed: Not negative.

    Raises:
        ValueError: for bad arguments.
        FileExistsError: when the folder holds something; it stays as it is.
    """
    for name, value, least in (
        ('num_train', num_train, 1),
        ('num_val', num_val, 1),
        ('image_size', image_size, 64),
        ('seed', seed, 0),
    ):
        if not isinstance(value, int) or value < least:
            raise ValueError(f'{name} of the digits data set must be an integer of at least {least}, got {value!r}.')
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"'{folder}' exists and is not empty; delete it or name another folder.")
    try:
        _write_aside(folder, dict(train=num_train, test=num_val), image_size, seed)
    except OSError as e:
        raise OSError(f"Data set '{folder}' cannot be written: {e.strerror or e}.") from e


def _write_aside(folder: Path, counts: dict[str, int], size: int, seed: int) -> None:
    """Write beside ``folder`` and rename, so that a folder of this name is a whole data set."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f'.{folder.name}.'))
    try:
        whole = aside / 'whole'  # made by mkdir: with the user's permissions, which mkdtemp's folder lacks
        (whole / 'annotations').mkdir(parents=True)
        for split, count in counts.items():
            annotations = _write_images(whole / _FOLDERS[split], split, count, size, seed)
            (whole / 'annotations' / f'instances_{_FOLDERS[split]}.json').write_text(json.dumps(annotations))
        os.replace(whole, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_images(folder: Path, split: str, count: int, size: int, seed: int) -> dict:
    """Write the images of one split; returns the content of its annotation file."""
    folder.mkdir()
    scans, labels = load_scans(split)
    images, annotations = [], []
    for image_id in range(1, count + 1):
        rng = np.random.default_rng([seed, SPLITS.index(split), image_id])
        canvas, boxes = draw_scene(rng, scans, size)
        name = f'{image_id:012d}.jpg'
        Image.fromarray(canvas).save(folder / name, quality=95)
        images.append(dict(id=image_id, file_name=name, width=size, height=size, license=1))
        for scan, (x, y, w, h) in boxes:
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=int(labels[scan]) + 1,
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )
            )
    return dict(
        info=dict(description=f'Handwritten digits on textures, scans of the {split} split', seed=seed),
        licenses=[dict(id=1, name='CC BY 4.0', url='https://creativecommons.org/licenses/by/4.0/')],
        images=images,
        annotations=annotations,
        categories=[dict(id=i + 1, name=name, supercategory='digit') for i, name in enumerate(CLASSES)],
    )


def draw_scene(rng: np.random.Generator, scans: np.ndarray, size: int) -> tuple[np.ndarray, list[tuple[int, tuple]]]:
    """One image and what is in it.

    Args:
        rng: Decides everything.
        scans: (N, 8, 8) uint8, ink bright.
        size: Of the image in pixels.

    Returns:
        The image, (size, size, 3) uint8 RGB, and for each digit, lowest first, the index of its scan and its box
        (x, y, width, height) in pixels.
    """
    background = texture(rng, size)
    canvas = background.copy()
    owner = np.full((size, size), -1)  # the digit whose ink is on top
    drawn, full = [], []  # scan and number of ink pixels of each digit
    for _ in range(rng.integers(DIGITS[0], DIGITS[1] + 1)):
        scan = int(rng.integers(len(scans)))
        opacity = scale_ink(scans[scan], round(np.exp(rng.uniform(*np.log(HEIGHTS)))))
        ink = opacity >= 0.5
        place = _find_place(rng, ink, owner, full)
        if place is None:
            continue
        owner[place][ink] = len(drawn)
        color = ink_color(rng, background[place][ink].mean(axis=0))
        canvas[place] += opacity[..., None] * (color - canvas[place])
        drawn.append(scan)
        full.append(int(ink.sum()))
    boxes = [(scan, _box(owner == i)) for i, scan in enumerate(drawn)]
    return np.rint(canvas.clip(0, 255)).astype(np.uint8), boxes


def texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A dark canvas, colored by smooth noise at several scales, (size, size, 3) float in 0 to 255."""
    canvas = np.broadcast_to(rng.uniform(20, 100, 3), (size, size, 3)).copy()
    for cells, amplitude in ((2, 20), (4, 15), (size // 8, 10), (size // 3, 8)):
        for channel in range(3):
            grid = Image.fromarray(rng.normal(0, amplitude, (cells, cells)).astype(np.float32))
            canvas[..., channel] += np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))
    return canvas.clip(0, 255)


def scale_ink(scan: np.ndarray, height: int) -> np.ndarray:
    """Opacity of a scan's ink, 0 to 1, (height, W): cut to the ink, scaled up, and with sharp edges again.

    The first and last row and column have ink (an opacity of 0.5 or more).
    """
    x, y, w, h = _box(scan >= 128)
    opacity = scan.astype(np.float32) / 255
    # a margin for the resampling, cut off below
    opacity = np.pad(opacity, 1)[y : y + h + 2, x : x + w + 2]
    scale = height / h
    size = [max(3, round(scale * n)) for n in (w + 2, h + 2)]
    opacity = np.asarray(Image.fromarray(opacity).resize(size, Image.Resampling.BICUBIC))
    opacity = ((opacity - 0.35) / 0.3).clip(0, 1)
    x, y, w, h = _box(opacity >= 0.5)
    return opacity[y : y + h, x : x + w]


def ink_color(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    """A random RGB color that is lighter than ``background`` by `CONTRAST`."""
    while True:
        color = rng.uniform(0, 255, 3)
        if (color - background) @ _LUMINANCE >= CONTRAST:
            return color


def _find_place(rng: np.random.Generator, ink: np.ndarray, owner: np.ndarray, full: list[int]) -> tuple | None:
    """A random place where ``ink`` hides no digit too much, as slices of the canvas; None after twenty tries."""
    (height, width), size = ink.shape, len(owner)
    for _ in range(20):
        y, x = rng.integers(size - height + 1), rng.integers(size - width + 1)
        place = slice(y, y + height), slice(x, x + width)
        visible = owner.copy()
        visible[place][ink] = -1
        counts = np.bincount(visible[visible >= 0], minlength=len(full))
        if all(count >= VISIBLE * before for count, before in zip(counts, full)):
            return place
    return None


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the True pixels."""
    (y,), (x,) = (np.nonzero(mask.any(axis=axis)) for axis in (1, 0))
    return int(x[0]), int(y[0]), int(x[-1] - x[0] + 1), int(y[-1] - y[0] + 1)
