"""A resume finds the newest checkpoint that a killed run left whole."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from repnas_mm.engine.last_checkpoint import find_last_checkpoint, is_whole, resume_from
from repnas_mm.utils import save_atomic


@pytest.fixture
def work_dir(tmp_path):
    """Three epochs, the last of which the run notes as its last."""
    for epoch in (1, 2, 3):
        save(tmp_path / f'epoch_{epoch}.pth', epoch)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_3.pth'))
    return tmp_path


def save(path: Path, when: int) -> None:
    save_atomic(dict(meta=dict(seed=7), state_dict=dict(weight=torch.ones(10000))), path)
    os.utime(path, (when, when))


def found(folder: Path) -> str:
    return Path(find_last_checkpoint(folder)).name


def test_what_the_run_noted_comes_first(work_dir):
    assert found(work_dir) == 'epoch_3.pth'
    save(work_dir / 'epoch_9.pth', 0)  # of a longer run before
    assert found(work_dir) == 'epoch_3.pth'


@pytest.mark.parametrize('length', [0, 1, 100, 20000, -1])
def test_half_a_file_is_passed_over(work_dir, length):
    content = (work_dir / 'epoch_3.pth').read_bytes()
    (work_dir / 'epoch_3.pth').write_bytes(content[:length])
    assert found(work_dir) == 'epoch_2.pth'


def test_a_flipped_bit_is_noticed(work_dir):
    content = bytearray((work_dir / 'epoch_3.pth').read_bytes())
    content[len(content) // 2] ^= 1
    (work_dir / 'epoch_3.pth').write_bytes(content)
    assert not is_whole(work_dir / 'epoch_3.pth')
    assert found(work_dir) == 'epoch_2.pth'


def test_a_note_without_its_file(work_dir):
    (work_dir / 'epoch_3.pth').unlink()
    assert found(work_dir) == 'epoch_2.pth'
    (work_dir / 'last_checkpoint').write_text('')  # killed while writing it
    assert found(work_dir) == 'epoch_2.pth'
    (work_dir / 'last_checkpoint').unlink()
    assert found(work_dir) == 'epoch_2.pth'


def test_what_is_not_on_this_machine_is_left_to_mmengine(work_dir):
    (work_dir / 'last_checkpoint').write_text('s3://bucket/epoch_3.pth')
    assert find_last_checkpoint(work_dir) == 's3://bucket/epoch_3.pth'


def test_a_resume_has_the_seed_it_began_with(work_dir):
    cfg = Config(dict(work_dir=str(work_dir)))
    resume_from(cfg)
    assert cfg.resume and cfg.load_from.endswith('epoch_3.pth') and cfg.randomness.seed == 7
    cfg = Config(dict(work_dir=str(work_dir), randomness=dict(seed=None)))
    resume_from(cfg, str(work_dir / 'epoch_1.pth'))
    assert cfg.load_from.endswith('epoch_1.pth') and cfg.randomness.seed == 7
    cfg = Config(dict(work_dir=str(work_dir), randomness=dict(seed=1)))
    resume_from(cfg)
    assert cfg.randomness.seed == 1


def test_a_run_with_nothing_to_resume_starts(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path)))
    resume_from(cfg)
    assert not cfg.resume and cfg.get('load_from') is None
    cfg = Config(dict(work_dir=str(tmp_path), load_from='pretrained.pth'))
    resume_from(cfg)
    assert not cfg.resume and cfg.load_from == 'pretrained.pth'  # a fine-tuning starts from what it is given


def test_a_stock_runner_resumes_from_the_last_whole_one(small_cfg, run):
    run(small_cfg, stop_after=9)
    last = Path(small_cfg.work_dir) / 'epoch_3.pth'
    last.write_bytes(last.read_bytes()[:5000])
    runner = run(small_cfg, resume=True)
    log = (Path(runner._log_dir) / f'{runner.timestamp}.log').read_text()
    assert 'resumed epoch: 2' in log and runner.epoch == 6


def test_a_stock_runner_with_only_half_a_file_starts_anew(small_cfg, run):
    run(small_cfg, stop_after=3)
    (Path(small_cfg.work_dir) / 'epoch_1.pth').write_bytes(b'')
    runner = run(small_cfg, resume=True, stop_after=6)
    log = (Path(runner._log_dir) / f'{runner.timestamp}.log').read_text()
    assert 'No whole checkpoint' in log and 'resumed' not in log


def test_another_seed_is_warned_about(small_cfg, run):
    run(small_cfg, stop_after=3)
    small_cfg.randomness.seed = 5
    runner = run(small_cfg, resume=True, stop_after=6)
    log = (Path(runner._log_dir) / f'{runner.timestamp}.log').read_text()
    assert 'For an exact resume, set randomness.seed=0' in log
