"""Command line: print the installation, or describe a config, by ``python -m repnas_mm [describe CONFIG]``."""

import argparse
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from mmengine.config import DictAction
from mmengine.logging import MMLogger
from mmengine.registry import Registry
from mmengine.utils.dl_utils import collect_env

from . import __version__
from .checks import error_text
from .engine.describe import describe

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


def show_environment() -> None:
    print(f'repnas_mm {__version__} in {Path(__file__).parent}')
    show('Packages', {package: version(package) for package in PACKAGES})
    show('Environment', {key: value for key, value in collect_env().items() if key not in LEFT_OUT})
    show('Registered', registered())


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m repnas_mm', description='Without a command: print what is installed and registered.'
    )
    command = parser.add_subparsers(dest='command').add_parser(
        'describe', help='say which convolutions a config would search, at what cost, and what it lacks'
    )
    command.add_argument('config', help='a path, or a stock config as mmdet::...')
    command.add_argument('--all', action='store_true', help='list every convolution')
    command.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override settings')
    return parser.parse_args(argv)


def main(argv=None) -> None:
    args = parse_args(argv)
    if args.command is None:
        return show_environment()
    MMLogger.get_instance('describe', log_level='ERROR')  # the table says what the log would
    try:
        print(describe(args.config, args.cfg_options, args.all))
    except ValueError as e:
        raise SystemExit(str(e)) from e


if __name__ == '__main__':
    main()
