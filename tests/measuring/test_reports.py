"""What an item writes: every number once, the error beside the mean, and a page that shows the command."""

import csv

import pytest
from matplotlib.figure import Figure

from measuring.reports import Mean, Report

REPORT = Report(
    'table9',
    'Table 9: a test',
    [
        {'block': 'a', 'top-1 (%)': Mean((90.0, 91.0, 95.0)), 'paper': 94.13},
        {'block': 'b', 'top-1 (%)': Mean((50.0,)), 'paper': None, 'extra': 3},
    ],
    {'': Figure()},
    ['A note.'],
)


def test_mean_and_standard_error():
    mean = Mean((90.0, 91.0, 95.0))
    assert mean.mean == 92.0
    assert mean.error == pytest.approx((((2**2 + 1 + 3**2) / 2) / 3) ** 0.5)
    assert str(mean) == '92.00 ± 1.53'
    assert Mean((50.0,)).error == 0
    assert str(Mean((50.0,))) == '50.00'


def test_files(tmp_path):
    page = REPORT.write(tmp_path / 'new', 'python it.py')
    assert page == tmp_path / 'new' / 'table9.md'
    assert {path.name for path in page.parent.iterdir()} == {'table9.csv', 'table9.md', 'table9.png'}
    assert page.read_text() == (
        '# Table 9: a test\n\n```bash\npython it.py\n```\n\n'
        '| block | top-1 (%) | paper | extra |\n| --- | --- | --- | --- |\n'
        '| a | 92.00 ± 1.53 | 94.13 | – |\n| b | 50.00 | – | 3 |\n\n'
        '![Table 9: a test](table9.png)\n\nA note.\n'
    )


def test_csv_has_every_value(tmp_path):
    REPORT.write(tmp_path, '')
    a, b = csv.DictReader((tmp_path / 'table9.csv').read_text().splitlines())
    assert float(a['top-1 (%)']) == 92 and float(a['top-1 (%), standard error']) == pytest.approx(1.5275, abs=1e-4)
    assert a['top-1 (%), values'] == '90 91 95'
    assert b['paper'] == '' and b['extra'] == '3' and a['extra'] == ''
