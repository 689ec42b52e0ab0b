"""The embedded COCO: genuine layout, boxes that fit, no scan in both parts, the same files every time."""

import json

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from PIL import Image
from pycocotools.coco import COCO

from repnas_mm.datasets import write_coco_digits
from repnas_mm.datasets.coco_digits import CONTRAST, DIGITS, HEIGHTS, draw_scene, ink_color, scale_ink, texture
from repnas_mm.datasets.scans import load_scans

COUNTS = dict(train2017=30, val2017=12)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'coco_digits'
    write_coco_digits(folder, num_train=30, num_val=12, image_size=96, seed=3)
    return folder


def annotations(folder, name) -> dict:
    return json.loads((folder / 'annotations' / f'instances_{name}.json').read_text())


def contents(folder) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('name', COUNTS)
def test_pycocotools_reads_it(folder, name, capsys):
    coco = COCO(folder / 'annotations' / f'instances_{name}.json')
    assert [coco.cats[i]['name'] for i in coco.getCatIds()] == list('0123456789')
    assert len(coco.imgs) == COUNTS[name]
    for info in coco.imgs.values():
        assert Image.open(folder / name / info['file_name']).size == (info['width'], info['height']) == (96, 96)
        assert 1 <= len(coco.getAnnIds(imgIds=info['id'])) <= DIGITS[1]
    for annotation in coco.anns.values():
        x, y, w, h = annotation['bbox']
        assert x >= 0 and y >= 0 and x + w <= 96 and y + h <= 96
        mask = coco.annToMask(annotation)
        assert mask.sum() == annotation['area'] == w * h
        assert mask[y : y + h, x : x + w].all()


def test_mmdet_reads_it_and_its_metric_gives_perfect_boxes_1(folder):
    dataset = CocoDataset(
        ann_file='annotations/instances_val2017.json',
        data_root=str(folder),
        data_prefix=dict(img='val2017/'),
        metainfo=dict(classes=tuple('0123456789')),
        test_mode=True,
    )
    metric = CocoMetric(str(folder / 'annotations' / 'instances_val2017.json'), metric='bbox')
    metric.dataset_meta = dataset.metainfo
    assert len(dataset) == 12
    for item in dataset:
        boxes = np.array([instance['bbox'] for instance in item['instances']], dtype=np.float32)
        labels = np.array([instance['bbox_label'] for instance in item['instances']])
        found = dict(img_id=item['img_id'], bboxes=boxes, labels=labels, scores=np.ones(len(boxes), np.float32))
        metric.results.append((dict(img_id=item['img_id'], width=96, height=96), found))
    assert metric.evaluate(len(dataset))['coco/bbox_mAP'] == 1


def test_boxes_are_tight_around_the_ink(monkeypatch):
    # on a black canvas all that is not black is ink; only of pixels half covered or more
    monkeypatch.setattr('repnas_mm.datasets.coco_digits.texture', lambda _, size: np.zeros((size, size, 3)))
    monkeypatch.setattr('repnas_mm.datasets.coco_digits.ink_color', lambda *_: np.full(3, 255.0))
    monkeypatch.setattr('repnas_mm.datasets.coco_digits.DIGITS', (1, 1))
    scans, _ = load_scans('train')
    for seed in range(20):
        image, [(_, (x, y, w, h))] = draw_scene(np.random.default_rng(seed), scans, 96)
        rows, columns = np.nonzero(image[..., 0] >= 128)
        assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_a_box_covers_what_is_seen_of_a_digit(monkeypatch):
    """Digits of one grey level each, on black: the box of a level is the box of its digit."""
    levels = iter(range(100, 250, 10))
    monkeypatch.setattr('repnas_mm.datasets.coco_digits.texture', lambda _, size: np.zeros((size, size, 3)))
    monkeypatch.setattr('repnas_mm.datasets.coco_digits.ink_color', lambda *_: np.full(3, float(next(levels))))
    monkeypatch.setattr('repnas_mm.datasets.coco_digits.scale_ink', lambda *_: np.ones((30, 20), np.float32))
    monkeypatch.setattr('repnas_mm.datasets.coco_digits.DIGITS', (8, 8))
    image, digits = draw_scene(np.random.default_rng(0), load_scans('train')[0], 96)
    assert len(digits) > 3
    for level, (_, (x, y, w, h)) in zip(range(100, 250, 10), digits):
        rows, columns = np.nonzero(image[..., 0] == level)
        assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert len(rows) >= 0.7 * 30 * 20


def test_scales_and_overlaps_occur(folder):
    boxes, pairs = [], 0
    for image in annotations(folder, 'train2017')['images']:
        here = [a['bbox'] for a in annotations(folder, 'train2017')['annotations'] if a['image_id'] == image['id']]
        for i, (x, y, w, h) in enumerate(here):
            others = here[:i]
            pairs += any(x < x2 + w2 and x2 < x + w and y < y2 + h2 and y2 < y + h for x2, y2, w2, h2 in others)
        boxes += here
    heights = np.array(boxes)[:, 3]
    assert heights.min() < 18 and heights.max() > 40 and heights.max() <= HEIGHTS[1]
    assert 0.1 < pairs / len(boxes) < 0.6


def test_train_and_val_show_different_scans(monkeypatch, tmp_path):
    shown = []

    def watch(rng, scans, size):
        scene = draw_scene(rng, scans, size)
        shown[-1].extend(scans[i].tobytes() for i, _ in scene[1])
        return scene

    def load(split):
        shown.append([])
        return load_scans(split)

    monkeypatch.setattr('repnas_mm.datasets.coco_digits.draw_scene', watch)
    monkeypatch.setattr('repnas_mm.datasets.coco_digits.load_scans', load)
    write_coco_digits(tmp_path / 'data', num_train=10, num_val=5, image_size=64)
    train, val = ({scan.tobytes() for scan in load_scans(split)[0]} for split in ('train', 'test'))
    assert not train & val
    assert len(shown) == 2 and set(shown[0]) <= train and set(shown[1]) <= val


def test_ink_is_lighter_than_what_is_behind_it():
    luminance = np.array([0.299, 0.587, 0.114])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        canvas = texture(rng, 64)
        assert canvas.min() >= 0 and canvas.max() <= 255 and canvas.std(axis=(0, 1)).min() > 5
        background = canvas.mean(axis=(0, 1))
        assert (ink_color(rng, background) - background) @ luminance >= CONTRAST


@pytest.mark.parametrize('height', HEIGHTS)
def test_every_scan_keeps_ink_on_its_borders_when_scaled(height):
    for scan in load_scans('test')[0]:
        ink = scale_ink(scan, height) >= 0.5
        assert ink[0].any() and ink[-1].any() and ink[:, 0].any() and ink[:, -1].any()
        assert abs(len(ink) - height) <= 0.15 * height + 1


def test_a_seed_gives_the_same_files(folder, tmp_path):
    write_coco_digits(tmp_path / 'again', num_train=30, num_val=12, image_size=96, seed=3)
    assert contents(tmp_path / 'again') == contents(folder)
    write_coco_digits(tmp_path / 'fewer', num_train=2, num_val=1, image_size=96, seed=3)
    images = {name: data for name, data in contents(tmp_path / 'fewer').items() if name.endswith('.jpg')}
    assert len(images) == 3 and images.items() <= contents(folder).items()
    write_coco_digits(tmp_path / 'other', num_train=2, num_val=1, image_size=96, seed=4)
    others = contents(tmp_path / 'other')
    assert all(others[name] != data for name, data in images.items())


def test_the_folder_is_as_open_as_any_other(folder, tmp_path):
    (tmp_path / 'plain').mkdir()
    assert folder.stat().st_mode == (tmp_path / 'plain').stat().st_mode


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        (dict(num_train=0), 'num_train of the digits data set must be an integer of at least 1, got 0'),
        (dict(num_val=1.5), 'num_val .* got 1.5'),
        (dict(image_size=32), 'image_size .* at least 64, got 32'),
        (dict(seed=-1), 'seed .* at least 0, got -1'),
    ],
)
def test_bad_arguments_are_refused(tmp_path, argument, message):
    with pytest.raises(ValueError, match=message):
        write_coco_digits(tmp_path / 'data', **argument)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_else_stays(tmp_path):
    (tmp_path / 'mine.txt').write_text('mine')
    with pytest.raises(FileExistsError, match=f"'{tmp_path}' exists and is not empty; delete it or name another"):
        write_coco_digits(tmp_path, num_train=1, num_val=1)
    with pytest.raises(FileExistsError, match='exists and is not empty'):
        write_coco_digits(tmp_path / 'mine.txt', num_train=1, num_val=1)
    assert contents(tmp_path) == {'mine.txt': b'mine'}


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr('repnas_mm.datasets.coco_digits.draw_scene', fail)
    with pytest.raises(KeyboardInterrupt):
        write_coco_digits(tmp_path / 'data', num_train=1, num_val=1)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(OSError, match=f"Data set '{tmp_path}/file/data' cannot be written"):
        write_coco_digits(tmp_path / 'file' / 'data', num_train=1, num_val=1)
