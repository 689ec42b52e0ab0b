"""Data that is not there is named, with what to do, before any work; compressed files are unpacked."""

import gzip
from pathlib import Path

import pytest
from mmengine.config import Config

from repnas_mm.reproduce.data import find_data, place_data
from repnas_mm.reproduce.presets import PRESETS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
WITH_FILES = [preset for preset in PRESETS.values() if preset.files]


def test_digits_need_no_files(tmp_path):
    assert find_data(PRESETS['digits'], None, tmp_path) is None


@pytest.mark.parametrize('preset', WITH_FILES, ids=lambda preset: preset.name)
def test_missing_data_is_named_with_the_way_to_get_it(preset, tmp_path):
    sentence = rf"^Preset '{preset.name}' needs '{tmp_path}/nowhere/[^']+': (install|download) .*--data-root\.$"
    with pytest.raises(FileNotFoundError, match=sentence):
        find_data(preset, str(tmp_path / 'nowhere'), tmp_path / 'unpacked')
    assert not (tmp_path / 'unpacked').exists()


@pytest.mark.parametrize('preset', WITH_FILES, ids=lambda preset: preset.name)
def test_the_last_missing_file_is_noticed(preset, tmp_path, monkeypatch):
    if preset.pretrained_on:  # its data is another test's
        monkeypatch.setitem(PRESETS, preset.pretrained_on, PRESETS['digits'])
    for name in preset.files:
        with pytest.raises(FileNotFoundError, match=f"needs '{tmp_path / name}'"):
            find_data(preset, str(tmp_path), tmp_path / 'unpacked')
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_data(preset, str(tmp_path), tmp_path / 'unpacked') == str(tmp_path)


def test_compressed_files_are_unpacked_once(tmp_path):
    preset = PRESETS['fashion']
    for name in preset.files:
        (tmp_path / f'{name}.gz').write_bytes(gzip.compress(name.encode()))
    root = Path(find_data(preset, str(tmp_path), tmp_path / 'unpacked'))
    assert root == tmp_path / 'unpacked'
    assert {path.name: path.read_text() for path in root.iterdir()} == {name: name for name in preset.files}
    (root / preset.files[0]).write_text('kept')
    find_data(preset, str(tmp_path), tmp_path / 'unpacked')
    assert (root / preset.files[0]).read_text() == 'kept'


@pytest.mark.parametrize(
    'name',
    ['vgg16_odbb_cifar10', 'vgg16_acb_fashion', 'repvgg_b1_imagenet', 'centernet_odbb_a0', 'centernet_resnet101'],
)
def test_every_path_of_a_config_moves(name):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    old = [p.data_root for p in PRESETS.values() if p.data_root and p.data_root in cfg.pretty_text]
    place_data(cfg, '/elsewhere')
    # commented variables of stock configs may still name it, but nothing that is built
    used = {key: cfg[key] for key in cfg if key.endswith(('_dataloader', '_evaluator'))}
    assert old and not any(root in str(used) for root in old)
    assert '/elsewhere' in str(used)
