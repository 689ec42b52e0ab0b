"""The oldest versions of other packages that this one works with."""

import sys
from importlib import import_module

from mmengine.utils import digit_version

#: Module -> version; requirements/ has the OpenMMLab ones again, for mim and pip. Checked in this order.
OLDEST = dict(torch='2.0.0', mmengine='0.10.0', mmcv='2.0.1', mmpretrain='1.0.0', mmdet='3.0.0')
#: Needed by some configs only: checked where it is imported already, as mmpretrain does if it can.
OPTIONAL = ('mmdet',)


def check_versions() -> None:
    """Raise ImportError if a package is too old; what is missing raises by itself, and too new is theirs to say."""
    for name, oldest in OLDEST.items():
        module = sys.modules.get(name) if name in OPTIONAL else import_module(name)
        if module is not None and digit_version(module.__version__) < digit_version(oldest):
            install = 'pip install' if name == 'torch' else 'mim install'  # mim finds an mmcv with its ops
            raise ImportError(
                f'repnas_mm needs {name}>={oldest}, but {name} {module.__version__} is installed; run '
                f'"{install} \'{name}>={oldest}\'".'
            )
