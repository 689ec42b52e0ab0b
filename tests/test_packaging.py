"""What is installed: the package, and in `.mim` the configs and tools that openmim looks for."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

import repnas_mm
from repnas_mm.__main__ import version

ROOT = Path(__file__).resolve().parents[1]


def shipped(*patterns: str) -> set[str]:
    """Paths of the repository, as in git, without what an editable install links into the package."""
    paths = [path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern)]
    return {str(path) for path in paths if '.mim' not in path.parts}


MODULES = shipped('repnas_mm/**/*.py', 'repnas_mm/genotypes/*.json', 'repnas_mm/py.typed')
CLONE_ONLY = shipped(
    'tools/reproduce.py', 'tools/reproduction/**/*.py', 'tools/benchmark.py', 'tools/benchmarking/**/*.py'
)
MIM = shipped('configs/**/*.py', 'configs/*.yml', 'tools/**/*.py', 'model-index.yml') - CLONE_ONLY


@pytest.fixture(scope='module')
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sdist')
    # from a copy, because a build leaves files beside the source
    source = shutil.copytree(
        ROOT, folder / 'source', ignore=shutil.ignore_patterns('.*', 'work_dirs', 'data', 'build', '*.egg-info')
    )
    run(sys.executable, 'setup.py', '-q', 'sdist', '-d', folder, cwd=source)
    return next(folder.glob('repnas*.tar.gz'))


@pytest.fixture(scope='module')
def wheel(sdist):
    pip('wheel', '--no-build-isolation', '-w', sdist.parent, sdist)
    return next(sdist.parent.glob('repnas_mm-*.whl'))


def run(*command, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pip(command: str, *options) -> None:
    run(sys.executable, '-m', 'pip', command, '-q', '--no-deps', *options)


def test_an_sdist_holds_what_a_build_needs_and_no_more(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert MODULES | MIM | shipped('requirements/*.txt', 'setup.py', 'README.md', 'LICENSE') <= names
    assert not [name for name in names if name.startswith(('tests/', 'docs/', 'demo/', 'work_dirs/'))]
    assert CLONE_ONLY and not CLONE_ONLY & names


def test_a_wheel_from_the_sdist_holds_configs_tools_and_genotypes(wheel):
    names = {*zipfile.ZipFile(wheel).namelist()}
    assert MODULES | {f'repnas_mm/.mim/{path}' for path in MIM} <= names
    assert not [name for name in names if name.startswith(('tests', 'demo'))]
    assert {name.partition('/.mim/')[2] for name in names if name.startswith('repnas_mm/.mim/')} == MIM
    assert [name for name in names if name.endswith('.dist-info/LICENSE')]


def test_the_wheel_works_where_it_is_installed(wheel, tmp_path):
    # not a fresh environment, which would have no torch: a folder that is found before the checkout
    pip('install', '--no-index', '--no-compile', '--target', tmp_path, wheel)
    package = tmp_path / 'repnas_mm'
    code = (
        'import runpy\n'
        "runpy.run_module('repnas_mm', run_name='__main__')\n"
        'from mmpretrain import get_model\n'
        "model = get_model('odbb_a0_imagenet', backbone=dict(genotype='odbb_a0_authors', base_channels=8))\n"
        'print(model._metainfo.config.filename)\n'
    )
    environment = os.environ | dict(PYTHONPATH=str(tmp_path))
    shown = run(sys.executable, '-c', code, cwd=tmp_path, env=environment)
    lines = [line.split() for line in shown.splitlines()]
    assert lines[0] == ['repnas_mm', repnas_mm.__version__, 'in', str(package)]
    for name in ('mmengine', 'mmcv', 'mmpretrain', 'torch'):
        assert [name, import_module(name).__version__] in lines
    for scope in ('mmengine', 'mmpretrain'):
        hooks = ['CheckFiniteHook,', 'ExactResumeHook,', 'FuseHook,', 'RepNASHook,', 'SafeLoadHook']
        assert [scope, 'HOOKS', *hooks] in lines
        assert [scope, 'MODELS', 'ODBBBackbone,', 'ODBBConv2d,', 'ODBBlock'] in lines
        assert [scope, 'DATASETS', 'Digits'] in lines
    mim = package / '.mim'
    assert lines[-1] == [str(mim / 'configs' / 'odbb_a0_imagenet.py')]
    # a tool with code of its own beside it
    shown = run(sys.executable, mim / 'tools' / 'config_cost.py', '--help', cwd=tmp_path, env=environment)
    assert 'CONFIG' in shown


def test_a_package_that_is_missing_or_broken_is_shown(monkeypatch, tmp_path):
    assert version('no_such_package') == 'not installed'
    (tmp_path / 'broken.py').write_text("assert False, 'MMCV==3.0 is used but incompatible.'")
    monkeypatch.syspath_prepend(tmp_path)
    assert version('broken') == 'does not import: MMCV==3.0 is used but incompatible'


def test_an_editable_install_links_them():
    mim = Path(repnas_mm.__file__).parent / '.mim'
    assert (mim / 'configs' / 'odbb_a0_imagenet.py').samefile(ROOT / 'configs' / 'odbb_a0_imagenet.py')
    assert (mim / 'tools' / 'train.py').samefile(ROOT / 'tools' / 'train.py')
    assert (mim / 'model-index.yml').samefile(ROOT / 'model-index.yml')


def test_importing_the_package_needs_no_mmdet():
    code = (
        'import sys\n'
        "sys.modules['mmdet'] = None\n"
        'import repnas_mm\n'
        'from mmengine.registry import MODELS, HOOKS, DATASETS\n'
        "assert MODELS.get('mmpretrain.ODBBBackbone') is repnas_mm.models.ODBBBackbone\n"
        "assert MODELS.get('ODBBConv2d') is repnas_mm.models.ODBBConv2d\n"
        "assert HOOKS.get('RepNASHook') and HOOKS.get('FuseHook') and DATASETS.get('Digits')\n"
    )
    subprocess.run([sys.executable, '-c', code], check=True, timeout=300)
