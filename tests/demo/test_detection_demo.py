"""demo/detection_demo.py: the whole chain, on a few small images."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from scripts import load_script

from repnas_mm.datasets import write_coco_digits
from repnas_mm.engine.checkpoint import build_model, load_file
from repnas_mm.engine.fusing import max_difference, raw_output
from repnas_mm.search import Genotype

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def tool():
    return load_script('demo/detection_demo.py')


@pytest.fixture(scope='module')
def finished(tool, tmp_path_factory):
    """Work dir of a miniature demo, and its command line."""
    root = tmp_path_factory.mktemp('demo')
    data, folder = root / 'data', root / 'run'
    write_coco_digits(data, num_train=8, num_val=4, image_size=64)
    line = f"""
        --data {data} --work-dir {folder} --compare
        --search-options train_dataloader.dataset.indices=64 train_cfg.max_epochs=3 train_cfg.val_interval=3
        custom_hooks.0.strategy=sample custom_hooks.0.warmup=1 custom_hooks.0.frozen=1
        --detector-options train_dataloader.batch_size=4 train_cfg.max_epochs=3 train_cfg.val_interval=3
        custom_hooks.0.strategy=sample custom_hooks.0.warmup=1 custom_hooks.0.frozen=1"""
    tool.main(line.split())
    return folder / 'seed0', line.split()


ROWS = ('transfer', 'search_on_detection', 'plain', 'repvgg')


@pytest.mark.parametrize('row', ROWS)
def test_every_detector_is_the_same_unfused_and_fused(finished, row):
    folder = finished[0] / row
    ap = json.loads((folder / 'ap.json').read_text())
    assert abs(ap['fused'] - ap['unfused']) <= 1e-3
    # so few steps give an AP of about 0, which says little
    unfused, fused = (
        build_model(Config.fromfile(folder / f'{config}.py'), load_file(folder / f'{checkpoint}.pth'))
        for config, checkpoint in (('centernet_odbb_digits', 'epoch_3'), ('fused', 'fused'))
    )
    images = torch.randn(2, 3, 64, 64)
    assert max_difference(raw_output(unfused, images), raw_output(fused, images)) < 1e-5


def test_the_transferred_backbone_is_the_searched_one(tool, finished):
    folder, _ = finished
    cfg = Config.fromfile(folder / 'transfer' / 'centernet_odbb_digits.py')
    searched = load_file(folder / 'search' / 'subnet.pth')['state_dict']
    names = [name for name in searched if name.startswith('backbone.')]
    assert tool.count_taken_over(cfg, folder / 'search' / 'subnet.pth') == len(names) > 30
    trained = load_file(folder / 'transfer' / 'epoch_3.pth')['state_dict']
    assert {name for name in trained if name.startswith('backbone.')} == set(names)
    assert 'RepNASHook' not in [hook.type for hook in cfg.custom_hooks]


def test_a_backbone_from_elsewhere_is_noticed(tool, finished):
    folder, _ = finished
    cfg = Config.fromfile(folder / 'transfer' / 'centernet_odbb_digits.py')
    cfg.model.backbone.init_cfg = None
    with pytest.raises(ValueError, match="of the detector did not come from '"):
        tool.count_taken_over(cfg, folder / 'search' / 'subnet.pth')


def test_both_searches_leave_a_genotype_of_as_many_branches(finished):
    found = [Genotype.load(finished[0] / name / 'genotype.json') for name in ('search', 'search_on_detection')]
    assert [genotype.num_branches for genotype in found] == [24, 24]


def test_what_is_done_is_not_run_again_and_the_table_is(tool, finished, capsys):
    folder, line = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob('*.pth')}
    # as if interrupted between the last checkpoint and the fused one
    (folder / 'plain' / 'fused.pth').unlink()
    tool.main(line)
    table = capsys.readouterr().out.split('backbone  ')[-1]
    rows = ('searched on classification, transferred', 'searched on detection, from scratch', 'plain, from', 'repvgg')
    assert 'AP unfused' in table and all(row in table for row in rows)
    assert (folder.parent / 'detections.png').read_bytes().startswith(b'\x89PNG')
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {folder / 'plain' / 'fused.pth'}
