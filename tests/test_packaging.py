"""What is installed: the package, and in `.mim` the configs and tools that openmim looks for."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import repnas_mm

ROOT = Path(__file__).resolve().parents[1]


def test_a_wheel_holds_configs_tools_and_genotypes(tmp_path):
    # from a copy, because a build leaves files beside the source
    source = shutil.copytree(
        ROOT, tmp_path / 'source', ignore=shutil.ignore_patterns('.*', 'work_dirs', 'data', 'build')
    )
    command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', tmp_path, source]
    subprocess.run(command, check=True, timeout=300)
    names = zipfile.ZipFile(next(tmp_path.glob('repnas_mm-*.whl'))).namelist()
    for path in [*ROOT.glob('configs/**/*.py'), *ROOT.glob('tools/*.py')]:
        assert f'repnas_mm/.mim/{path.relative_to(ROOT)}' in names
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob('repnas_mm/**/*.py') if '.mim' not in path.parts}
    assert modules <= {*names}
    genotypes = {str(path.relative_to(ROOT)) for path in ROOT.glob('repnas_mm/genotypes/*')}
    assert genotypes and genotypes <= {*names}
    assert not [name for name in names if name.startswith('tests')]


def test_an_editable_install_links_them():
    mim = Path(repnas_mm.__file__).parent / '.mim'
    assert (mim / 'configs' / 'odbb_a0_imagenet.py').samefile(ROOT / 'configs' / 'odbb_a0_imagenet.py')
    assert (mim / 'tools' / 'train.py').samefile(ROOT / 'tools' / 'train.py')


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
