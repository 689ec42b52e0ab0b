"""What goes wrong outside of a search costs no more than the time since the last checkpoint, and never a result.

Every case: a search in which something goes wrong, then the same command again. Nothing that was saved before is lost,
and what is there at the end is bit-identical to an uninterrupted run's. Part of `make stress`.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from kill_and_resume import ROOT, differences
from small_search import small_search

from repnas_mm.engine.checkpoint import load_file
from repnas_mm.engine.last_checkpoint import find_last_checkpoint, is_whole
from repnas_mm.search import Genotype

STRATEGIES = ('sample', 'shrink')
#: First iteration of the second epoch of each phase; epochs have 3 iterations, and a checkpoint at the end
PHASES = dict(warmup=4, search=10, frozen=16)


def write_config(path: Path, strategy: str, **fault) -> None:
    """A small search in 6 epochs, 2 of each phase, in which what ``fault`` says goes wrong."""
    cfg = small_search(path.parent)
    cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
    if strategy == 'shrink':
        cfg.model.backbone.share_weights = False
        cfg.custom_hooks[0] = dict(type='RepNASHook', num_branches=10, warmup=2, frozen=2)
    if fault:
        cfg.custom_hooks.append(dict(type='Fault', **fault))
        cfg.custom_imports.imports.append('fault')
    del cfg._cfg_dict['work_dir']
    cfg.dump(path)


def train(config: Path, work_dir: Path) -> int:
    """Return the exit status of the command that a user gives; what it prints is in ``work_dir``.log."""
    paths = [str(ROOT), str(Path(__file__).parent)]
    with open(f'{work_dir}.log', 'a') as log:
        return subprocess.run(
            [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config), '--work-dir', str(work_dir), '--resume'],
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths), OMP_NUM_THREADS='1'),
            stdout=log,
            stderr=log,
            timeout=600,
        ).returncode


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Strategy -> work dir of a run in which nothing goes wrong."""
    folder = tmp_path_factory.mktemp('whole')
    for strategy in STRATEGIES:
        write_config(folder / f'{strategy}.py', strategy)
        assert train(folder / f'{strategy}.py', folder / strategy) == 0
    return folder


def check_results(work_dir: Path) -> None:
    """What the run has exported so far is whole, and is no half of two."""
    if (work_dir / 'genotype.json').exists():
        Genotype.load(work_dir / 'genotype.json')
    for name in ('subnet', 'fused'):
        if (work_dir / f'{name}.pth').exists():
            assert load_file(work_dir / f'{name}.pth')['state_dict']


def check_next_start(whole: Path, strategy: str, work_dir: Path, logged_otherwise: bool = False) -> None:
    """The command again, with nothing going wrong: the end is that of a whole run, and so is what both have logged."""
    assert train(whole / f'{strategy}.py', work_dir) == 0
    found = differences(whole / strategy, work_dir)
    assert [what for what in found if not (logged_otherwise and what.startswith('the log'))] == []


def run_with(folder: Path, strategy: str, **fault) -> Path:
    """Work dir of a run in which that went wrong."""
    write_config(folder / 'fault.py', strategy, **fault)
    work_dir = folder / 'run'
    assert train(folder / 'fault.py', work_dir) != 0
    return work_dir


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize('phase', PHASES)
@pytest.mark.parametrize('what', ['sigterm', 'sigint', 'killed_writer', 'full_disk', 'dead_worker', 'nan_batch'])
def test_what_goes_wrong_in_a_phase(whole, tmp_path, what, phase, strategy):
    at = PHASES[phase]
    work_dir = run_with(tmp_path, strategy, what=what, at=at)
    saved = at // 3  # epochs
    assert all(is_whole(work_dir / f'epoch_{epoch}.pth') for epoch in range(1, saved + 1))
    assert find_last_checkpoint(work_dir) == str(work_dir / f'epoch_{saved}.pth')
    check_results(work_dir)
    check_next_start(whole, strategy, work_dir, logged_otherwise=what == 'nan_batch')  # whose loss is in the log


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_work_dir_that_becomes_read_only(whole, tmp_path):
    work_dir = run_with(tmp_path, 'sample', what='read_only', at=4)
    assert train(whole / 'sample.py', work_dir) != 0  # refused at once
    os.chmod(work_dir, 0o700)
    check_next_start(whole, 'sample', work_dir)


@pytest.mark.parametrize('what', ['sigterm', 'sigint', 'full_disk'])
@pytest.mark.parametrize('file', range(6))
def test_what_goes_wrong_during_export(whole, tmp_path, what, file):
    work_dir = run_with(tmp_path, 'sample', what=what, file=file)
    assert is_whole(work_dir / 'epoch_6.pth')
    check_results(work_dir)
    check_next_start(whole, 'sample', work_dir)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize('clock', ['right', 'jumped'])
@pytest.mark.parametrize('damage', [cut, flip, empty])
def test_a_damaged_checkpoint_is_passed_over_whatever_the_clock_says(whole, tmp_path, damage, clock, strategy):
    work_dir = run_with(tmp_path, strategy, what='sigterm', at=10)
    damage(work_dir / 'epoch_3.pth')
    if clock == 'jumped':  # the first checkpoint is from the future
        os.utime(work_dir / 'epoch_1.pth', times=(time.time() + 1e6,) * 2)
    check_next_start(whole, strategy, work_dir)
