"""The oldest versions of other packages that this one works with."""

from importlib import import_module

from mmengine.utils import digit_version

#: Module -> version. The OpenMMLab ones are also in requirements/mminstall.txt, for mim.
OLDEST = dict(torch='2.0.0', mmengine='0.10.0', mmcv='2.0.1', mmpretrain='1.0.0')


def check_versions() -> None:
    """Raise ImportError if a package is too old; what is missing raises by itself, and too new is theirs to say."""
    for name, oldest in OLDEST.items():
        installed = import_module(name).__version__
        if digit_version(installed) < digit_version(oldest):
            raise ImportError(
                f'repnas_mm needs {name}>={oldest}, but {name} {installed} is installed; run '
                f'"pip install -U \'{name}>={oldest}\'".'
            )
