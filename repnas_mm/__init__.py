"""RepNAS in OpenMMLab: search diverse branch blocks while a CNN trains, fuse them when it is done.

Importing the package registers its backbone, hooks and dataset in MMEngine's root registries, where configs of every
OpenMMLab project find them.
"""

from . import datasets, engine, models, search
from .version import __version__

__all__ = ['__version__', 'datasets', 'engine', 'models', 'search']
