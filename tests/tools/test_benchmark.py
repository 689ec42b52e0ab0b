"""tools/benchmark.py: one command, tables and a plot."""

import csv
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

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
    assert names == {'benchmark.csv', 'benchmark.md', 'growth.csv', 'growth.md', 'growth.png'}
    rows = list(csv.DictReader((tmp_path / 'benchmark.csv').open()))
    for rival in ('stock RepVGG', 'naive'):
        assert f'bytes saved for backward ÷ {rival}' in {row['what'] for row in rows}
    assert 'python tools/benchmark.py --measures kept growth' in (tmp_path / 'benchmark.md').read_text()
    assert len(list(csv.DictReader((tmp_path / 'growth.csv').open()))) == 6


def test_fast_paths_are_a_table_of_their_own(tool, tmp_path, monkeypatch):
    paths = SimpleNamespace(PATHS={'one': 'a saving'}, without=lambda *names: nullcontext())
    monkeypatch.setattr(tool, 'fast', paths)
    tool.main(['--settings', 'digits', '--measures', 'tricks', '--draws', '2', '--out', str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {'tricks.csv', 'tricks.md'}
    (row,) = csv.DictReader((tmp_path / 'tricks.csv').open())
    assert (row['setting'], row['fast path'], row['draws']) == ('digits, 64 × 16²', 'one', '2')
    assert '`one`: a saving' in (tmp_path / 'tricks.md').read_text()


@pytest.mark.parametrize('option', ['--draws', '--image-size', '--batch-size'])
def test_a_number_below_one_is_refused(tool, option, capsys):
    with pytest.raises(SystemExit):
        tool.main([option, '0'])
    assert f'{option} must be at least 1' in capsys.readouterr().err


def test_an_unknown_arch_is_told_before_anything_is_measured(tool, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tool.main(['--archs', 'A0', 'Z9', '--out', str(tmp_path)])
    assert "'Z9'" in capsys.readouterr().err and not list(tmp_path.iterdir())
