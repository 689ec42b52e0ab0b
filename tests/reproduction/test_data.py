"""Data that is not there is named, with what to do, before any work; compressed files are unpacked."""

import gzip
from pathlib import Path

import pytest
from mmengine.config import Config

from reproduction.data import find_data, place_data
from reproduction.scales import SCALES

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
WITH_FILES = [scale for scale in SCALES.values() if scale.files]


def test_digits_need_no_files(tmp_path):
    assert find_data(SCALES['digits'], None, tmp_path) is None


@pytest.mark.parametrize('scale', WITH_FILES, ids=lambda scale: scale.name)
def test_missing_data_is_named_with_the_way_to_get_it(scale, tmp_path):
    sentence = rf"^Scale '{scale.name}' needs '{tmp_path}/nowhere/[^']+': (install|download) .*--data-root\.$"
    with pytest.raises(FileNotFoundError, match=sentence):
        find_data(scale, str(tmp_path / 'nowhere'), tmp_path / 'unpacked')
    assert not (tmp_path / 'unpacked').exists()


@pytest.mark.parametrize('scale', WITH_FILES, ids=lambda scale: scale.name)
def test_the_last_missing_file_is_noticed(scale, tmp_path, monkeypatch):
    if scale.pretrained_on:  # its data is another test's
        monkeypatch.setitem(SCALES, scale.pretrained_on, SCALES['digits'])
    for name in scale.files:
        with pytest.raises(FileNotFoundError, match=f"needs '{tmp_path / name}'"):
            find_data(scale, str(tmp_path), tmp_path / 'unpacked')
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_data(scale, str(tmp_path), tmp_path / 'unpacked') == str(tmp_path)


def test_compressed_files_are_unpacked_once(tmp_path):
    scale = SCALES['fashion']
    for name in scale.files:
        (tmp_path / f'{name}.gz').write_bytes(gzip.compress(name.encode()))
    root = Path(find_data(scale, str(tmp_path), tmp_path / 'unpacked'))
    assert root == tmp_path / 'unpacked'
    assert {path.name: path.read_text() for path in root.iterdir()} == {name: name for name in scale.files}
    (root / scale.files[0]).write_text('kept')
    find_data(scale, str(tmp_path), tmp_path / 'unpacked')
    assert (root / scale.files[0]).read_text() == 'kept'


@pytest.mark.parametrize(
    'name',
    ['vgg16_odbb_cifar10', 'vgg16_acb_fashion', 'repvgg_b1_imagenet', 'centernet_odbb_a0', 'centernet_resnet101'],
)
def test_every_path_of_a_config_moves(name):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    old = [p.data_root for p in SCALES.values() if p.data_root and p.data_root in cfg.pretty_text]
    place_data(cfg, '/elsewhere')
    # commented variables of stock configs may still name it, but nothing that is built
    used = {key: cfg[key] for key in cfg if key.endswith(('_dataloader', '_evaluator'))}
    assert old and not any(root in str(used) for root in old)
    assert '/elsewhere' in str(used)
