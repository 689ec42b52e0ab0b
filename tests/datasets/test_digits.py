"""The digits that need no download: a fixed, fair split of real scans, found from any registry."""

import numpy as np
import pytest
from mmengine.registry import DATASETS, DefaultScope
from mmpretrain.registry import DATASETS as MMPRETRAIN_DATASETS
from sklearn.datasets import load_digits

from repnas_mm.datasets import Digits


@pytest.fixture(scope='module')
def parts():
    return {split: Digits(split) for split in ('train', 'test')}


def labels(dataset) -> np.ndarray:
    return np.array([int(dataset[i]['gt_label']) for i in range(len(dataset))])


def test_the_split_has_1437_and_360_images(parts):
    assert {split: len(part) for split, part in parts.items()} == dict(train=1437, test=360)


def test_every_fifth_scan_is_a_test_image_and_no_other(parts):
    scans = load_digits()
    expected = {'train': [], 'test': []}
    for i in range(1797):
        expected['test' if i % 5 == 0 else 'train'].append(i)
    for split, part in parts.items():
        for item, i in zip(part, expected[split], strict=True):
            np.testing.assert_allclose(item['img'][..., 0] * (16 / 255), scans.images[i], atol=0.5 * 16 / 255)
            assert item['gt_label'] == scans.target[i]


def test_the_split_is_the_same_every_time(parts):
    for split, part in parts.items():
        again = Digits(split)
        assert all(np.array_equal(a['img'], b['img']) for a, b in zip(part, again, strict=True))
        assert np.array_equal(labels(part), labels(again))


def test_no_image_is_in_both_parts(parts):
    train, test = ({item['img'].tobytes() for item in part} for part in parts.values())
    assert not train & test


@pytest.mark.parametrize('split', ['train', 'test'])
def test_all_digits_are_about_equally_frequent(parts, split):
    counts = np.bincount(labels(parts[split]), minlength=10)
    assert len(counts) == 10
    assert counts.min() > 0.7 * counts.mean() and counts.max() < 1.4 * counts.mean()


def test_an_image_is_eight_by_eight_grey_bytes_over_the_full_range(parts):
    images = [item['img'] for part in parts.values() for item in part]
    assert {(image.shape, image.dtype) for image in images} == {((8, 8, 1), np.dtype('uint8'))}
    levels = np.unique(images)
    assert len(levels) == 17 and levels[0] == 0 and levels[-1] == 255


def test_the_root_registry_builds_it_by_its_bare_name():
    assert isinstance(DATASETS.build(dict(type='Digits', split='test')), Digits)


def test_mmpretrain_builds_it_from_its_own_scope_with_a_pipeline():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        dataset = MMPRETRAIN_DATASETS.build(dict(type='Digits', split='test', pipeline=[dict(type='PackInputs')]))
    item = dataset[0]
    assert item['inputs'].shape == (1, 8, 8)
    assert item['data_samples'].gt_label.tolist() == [0]
    assert list(dataset.CLASSES) == list('0123456789')


def test_three_channels_repeat_the_grey_one(parts):
    for grey, color in zip(parts['test'], Digits('test', channels=3), strict=True):
        assert color['img'].shape == (8, 8, 3) and color['img'].dtype == np.uint8
        assert (color['img'] == grey['img']).all()


@pytest.mark.parametrize('channels', [0, 2, '3'])
def test_other_numbers_of_channels_are_refused(channels):
    with pytest.raises(ValueError, match=f'channels of Digits must be 1 or 3, got {channels!r}'):
        Digits(channels=channels)


def test_indices_take_a_part():
    assert len(Digits('train', indices=10)) == 10


@pytest.mark.parametrize('split', ['val', '', None])
def test_an_unknown_split_is_refused(split):
    with pytest.raises(ValueError, match=f"must be 'train' or 'test', got {split!r}"):
        Digits(split)
