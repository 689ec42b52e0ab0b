"""Packages that are too old are named at import."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from repnas_mm.versions import OLDEST, check_versions

ROOT = Path(__file__).resolve().parents[1]


def pretend(monkeypatch, name: str, version: str) -> None:
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(__version__=version))


def test_these_versions_fit():
    check_versions()


@pytest.mark.parametrize('name', OLDEST)
@pytest.mark.parametrize('version', ['0.9.9', '0.0.1rc1'])
def test_a_package_that_is_too_old_is_named(monkeypatch, name, version):
    pretend(monkeypatch, name, version)
    with pytest.raises(ImportError, match=rf"needs {name}>={OLDEST[name]}, but {name} {version} is .* '{name}>="):
        check_versions()


@pytest.mark.parametrize('name', OLDEST)
def test_a_release_candidate_of_the_oldest_one_is_too_old(monkeypatch, name):
    pretend(monkeypatch, name, f'{OLDEST[name]}rc1')
    with pytest.raises(ImportError, match=f'needs {name}>='):
        check_versions()


@pytest.mark.parametrize('name', OLDEST)
def test_the_oldest_one_and_local_builds_fit(monkeypatch, name):
    for version in (OLDEST[name], f'{OLDEST[name]}+cu118'):
        pretend(monkeypatch, name, version)
        check_versions()


@pytest.mark.parametrize('name', ['mmengine', 'mmdet'])
def test_it_is_said_before_anything_else_is_imported(name):
    code = f"import {name}; {name}.__version__ = '0.7.0'; import repnas_mm"
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith(f'ImportError: repnas_mm needs {name}>={OLDEST[name]}, but {name} 0.7.0 is installed')


def test_mmdet_may_be_missing(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmdet', raising=False)
    check_versions()
    assert 'mmdet' not in sys.modules
    monkeypatch.setitem(sys.modules, 'mmdet', None)
    check_versions()


def test_the_requirements_say_the_same():
    lines = [
        line for name in ('mminstall', 'optional') for line in (ROOT / f'requirements/{name}.txt').read_text().split()
    ]
    said = dict(line.split('>=') for line in lines if '>=' in line)
    assert said == {name: oldest for name, oldest in OLDEST.items() if name != 'torch'}
