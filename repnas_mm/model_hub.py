"""The classifiers of configs/metafile.yml, by name in mmpretrain's ``list_models`` and ``get_model``."""

from pathlib import Path

import mmpretrain


def register_models() -> None:
    """Register them, if the package is installed with its configs; a bare source tree has none to register."""
    mim = Path(__file__).parent / '.mim'
    metafile = mim / 'configs' / 'metafile.yml'
    hub = getattr(mmpretrain, 'ModelHub', None)
    if hub is None or not metafile.exists() or hub.has('odbb_a0_imagenet'):
        return
    hub.register_model_index(metafile, config_prefix=mim)
    for model in hub._models_dict.values():
        if model.weights == ['']:
            model.weights = None  # so that get_model(pretrained=True) says that there are none
