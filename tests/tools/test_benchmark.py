"""tools/benchmark.py: one command, tables and a plot."""

import csv
from functools import partial

import pytest
from scripts import load_script


@pytest.fixture
def tool():
    return load_script('tools/benchmark.py')


def test_it_writes_tables_a_figure_and_the_command(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'Setting', partial(tool.Setting, base_channels=8))
    monkeypatch.setattr(tool.growth, 'SHARES', (0.3, 0.6))
    monkeypatch.setattr(tool.growth, 'BATCHES', (1, 2))
    monkeypatch.setattr(tool.growth, 'SIDES', (1, 2))
    args = ['--image-size', '32', '--batch-size', '2', '--draws', '1', '--out', str(tmp_path)]
    tool.main(['--measures', 'kept', 'growth', *args])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {'benchmark.csv', 'benchmark.md', 'growth.csv', 'growth.md', 'growth.png', 'growth.svg'}
    rows = list(csv.DictReader((tmp_path / 'benchmark.csv').open()))
    assert {row['what'] for row in rows} >= {'bytes kept ÷ stock RepVGG', 'bytes kept ÷ naive'}
    assert 'python tools/benchmark.py --measures kept growth' in (tmp_path / 'benchmark.md').read_text()
    assert len(list(csv.DictReader((tmp_path / 'growth.csv').open()))) == 6


@pytest.mark.parametrize('option', ['--draws', '--image-size', '--batch-size'])
def test_a_number_below_one_is_refused(tool, option, capsys):
    with pytest.raises(SystemExit):
        tool.main([option, '0'])
    assert f'{option} must be at least 1' in capsys.readouterr().err


def test_an_unknown_arch_is_told_before_anything_is_measured(tool, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tool.main(['--archs', 'A0', 'Z9', '--out', str(tmp_path)])
    assert "'Z9'" in capsys.readouterr().err and not list(tmp_path.iterdir())
