"""Packages that are too old are named at import."""

import subprocess
import sys
from pathlib import Path

import pytest

from repnas_mm.versions import OLDEST, check_versions

ROOT = Path(__file__).resolve().parents[1]


def test_these_versions_fit():
    check_versions()


@pytest.mark.parametrize('name', OLDEST)
@pytest.mark.parametrize('version', ['0.9.9', '0.0.1rc1'])
def test_a_package_that_is_too_old_is_named(monkeypatch, name, version):
    module = __import__(name)
    monkeypatch.setattr(module, '__version__', version)
    with pytest.raises(ImportError, match=rf'repnas_mm needs {name}>={OLDEST[name]}, but {name} {version} is inst'):
        check_versions()


@pytest.mark.parametrize('name', OLDEST)
def test_the_oldest_one_and_local_builds_fit(monkeypatch, name):
    for version in (OLDEST[name], f'{OLDEST[name]}+cu118'):
        monkeypatch.setattr(__import__(name), '__version__', version)
        check_versions()


def test_it_is_said_before_anything_else_is_imported():
    code = "import mmengine; mmengine.__version__ = '0.7.0'; import repnas_mm"
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert (
        done.stderr.strip().splitlines()[-1].startswith('ImportError: repnas_mm needs mmengine>=0.10.0, but mmengine')
    )


def test_mim_installs_what_is_needed():
    lines = (ROOT / 'requirements' / 'mminstall.txt').read_text().split()
    assert dict(line.split('>=') for line in lines) == {k: v for k, v in OLDEST.items() if k != 'torch'}
