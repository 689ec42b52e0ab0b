"""The classifiers of configs/metafile.yml, by name in mmpretrain's ``list_models`` and ``get_model``."""

import warnings
from pathlib import Path

import mmpretrain

from .checks import error_text


def register_models() -> None:
    """Register them, if the package is installed with its configs; a bare source tree has none to register.

    A list of models that does not take them is warned about: everything else works without.
    """
    mim = Path(__file__).parent / '.mim'
    metafile = mim / 'configs' / 'metafile.yml'
    hub = getattr(mmpretrain, 'ModelHub', None)
    if hub is None or not metafile.exists() or hub.has('odbb_a0_imagenet'):
        return
    known = {*hub._models_dict}
    try:
        hub.register_model_index(metafile, config_prefix=mim)
    except Exception as e:  # code that is not ours, at the import of this package
        warnings.warn(f"mmpretrain's list of models does not take those of repnas_mm: {error_text(e)}.", stacklevel=2)
    for name in hub._models_dict.keys() - known:
        hub._models_dict[name].weights = None  # so that get_model(pretrained=True) says that there are none
