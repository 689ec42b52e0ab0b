"""Print, as ``python -m repnas_mm``, the installed versions and registered classes, for a report of a problem."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from mmengine.registry import Registry
from mmengine.utils.dl_utils import collect_env

from . import __version__
from .checks import error_text

PACKAGES = ('mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'torch', 'torchvision', 'numpy')
#: Of `collect_env`: versions that are above, a number that means nothing here, and a page of compiler flags
LEFT_OUT = {'PyTorch', 'TorchVision', 'MMEngine', 'numpy_random_seed', 'PyTorch compiling details'}


def version(package: str) -> str:
    """Name the version that is imported, or the reason why none is."""
    try:
        return import_module(package).__version__
    except ModuleNotFoundError as e:
        return 'not installed' if e.name == package else f'does not import: {error_text(e)}'
    except Exception as e:  # the OpenMMLab packages refuse versions of each other by assert
        return f'does not import: {error_text(e)}'


def registered() -> dict[str, str]:
    """Map each registry to the classes of this package in it."""
    found = {}
    for scope in ('mmengine', 'mmpretrain'):
        for name, registry in sorted(vars(import_module(f'{scope}.registry')).items()):
            if isinstance(registry, Registry) and registry.scope == scope:  # mmpretrain's module has mmengine's, too
                own = [key for key, cls in registry.module_dict.items() if cls.__module__.startswith('repnas_mm.')]
                if own:
                    found[f'{scope} {name}'] = ', '.join(sorted(own))
    return found


def show(title: str, rows: Mapping[str, object]) -> None:
    width = max(map(len, rows))
    print(f'\n{title}')
    for name, value in rows.items():
        print(f'  {name:{width}}  {value}')


def main() -> None:
    print(f'repnas_mm {__version__} in {Path(__file__).parent}')
    show('Packages', {package: version(package) for package in PACKAGES})
    show('Environment', {key: value for key, value in collect_env().items() if key not in LEFT_OUT})
    show('Registered', registered())


if __name__ == '__main__':
    main()
