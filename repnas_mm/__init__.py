"""RepNAS in OpenMMLab: search diverse branch blocks while a CNN trains, fuse them when it is done.

Importing the package registers its backbone, hooks and dataset in MMEngine's root registries, where configs of every
OpenMMLab project find them, and its classifiers in mmpretrain's list of models.
"""

from .version import __version__
from .versions import check_versions

check_versions()  # before anything needs what an older version has not

from . import datasets, engine, models, search  # noqa: E402
from .model_hub import register_models  # noqa: E402

register_models()

__all__ = ['__version__', 'datasets', 'engine', 'models', 'search']
