"""tools/reproduce.py: refuses early, in one sentence; writes what it says, and goes on where it stopped."""

import runpy
from pathlib import Path

import pytest

from reproduction import SCALES, Lab

ROOT = Path(__file__).resolve().parents[2]


def reproduce(*arguments):
    runpy.run_path(str(ROOT / 'tools' / 'reproduce.py'))['main']([str(a) for a in arguments])


def test_an_item_that_the_scale_has_not(tmp_path):
    with pytest.raises(ValueError, match=r"^Scale 'coco' has no figure4; scales that have it: digits, .*imagenet\.$"):
        reproduce('figure4', '--preset', 'coco', '--work-dir', tmp_path / 'work')
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize('scale', ['fashion', 'cifar10', 'imagenet'])
def test_absent_data_before_any_work(scale, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"^Scale '{scale}' needs .*--data-root\.$"):
        reproduce('figure4', '--preset', scale, '--work-dir', tmp_path / 'work', '--data-root', tmp_path / 'none')
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize('option', ['--seeds', '--processes'])
def test_numbers_below_one(option, tmp_path, capsys):
    with pytest.raises(SystemExit):
        reproduce('table3', '--preset', 'digits', option, '0')
    assert f'{option} must be at least 1' in capsys.readouterr().err


def test_writes_table_figure_and_log(tmp_path, monkeypatch, capsys):
    asked = []

    def run(self, trainings):
        from reproduction.training import Result

        trainings = list(trainings)
        asked.extend(t.name for t in trainings)
        self.log('trained')
        return {t: Result(self.folder / t.name, {'accuracy/top1': 90.0}, {}) for t in trainings}

    monkeypatch.setattr(Lab, 'run', run)
    reproduce('figure4', '--preset', 'digits', '--seeds', 2, '--work-dir', tmp_path)
    out = tmp_path / 'results' / 'digits'
    assert {path.name for path in out.iterdir()} == {f'figure4.{s}' for s in ('csv', 'md', 'png', 'log')}
    command = f'python tools/reproduce.py figure4 --preset digits --seeds 2 --work-dir {tmp_path}'
    assert command in (out / 'figure4.md').read_text()
    log = (out / 'figure4.log').read_text()
    assert command in log and 'trained' in log
    assert '| odbb | 52 | 2 | 90.00 ± 0.00 |' in capsys.readouterr().out
    assert len(asked) == 2 * (4 + len(SCALES['digits'].sweep))
