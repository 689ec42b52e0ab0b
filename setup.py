"""Install repnas_mm as OpenMMLab packages are: with its configs and tools in ``repnas_mm/.mim``, for openmim."""

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop

ROOT = Path(__file__).resolve().parent
MIM = ['configs', 'tools', 'model-index.yml']
#: Of tools/, what is for a clone only: the tables of the paper and the benchmark
CLONE_ONLY = ['reproduce.py', 'reproduction', 'benchmark.py', 'benchmarking']


def link_mim() -> None:
    """Link what mim looks for into the source package, for an editable install."""
    folder = ROOT / 'repnas_mm' / '.mim'
    folder.mkdir(exist_ok=True)
    for name in MIM:
        link = folder / name
        if link.is_symlink():
            link.unlink()
        if (ROOT / name).exists() and not link.exists():
            link.symlink_to(os.path.relpath(ROOT / name, folder), target_is_directory=(ROOT / name).is_dir())


class BuildPy(build_py):
    """Adds ``.mim``: links for an editable install (PEP 660), copies for a wheel."""

    def run(self):
        super().run()
        if getattr(self, 'editable_mode', False):
            return link_mim()
        folder = Path(self.build_lib) / 'repnas_mm' / '.mim'
        shutil.rmtree(folder, ignore_errors=True)
        for name in MIM:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__', *CLONE_ONLY))
            elif (ROOT / name).exists():
                shutil.copy(ROOT / name, folder / name)


class Develop(develop):
    """The editable install of pip without PEP 660."""

    def run(self):
        super().run()
        link_mim()


def requirements(name: str) -> list[str]:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def version() -> str:
    scope: dict = {}
    exec((ROOT / 'repnas_mm' / 'version.py').read_text(), scope)
    return scope['__version__']


setup(
    name='repnas_mm',
    version=version(),
    description='RepNAS for OpenMMLab: search re-parameterizable branches while a CNN trains',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['repnas_mm', 'repnas_mm.*']),
    package_data={'repnas_mm': ['genotypes/*.json', 'py.typed']},
    install_requires=requirements('runtime'),
    # not install_requires: mim installs these, because pip alone would build mmcv without its ops
    extras_require={name: requirements(name) for name in ('mminstall', 'optional', 'tests')},
    cmdclass={'build_py': BuildPy, 'develop': Develop},
    zip_safe=False,
)
