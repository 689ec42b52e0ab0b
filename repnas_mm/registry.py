"""One way to register: found bare and under ``mmpretrain.`` from the scope of any OpenMMLab project."""

import mmengine.registry
import mmpretrain.registry


def register(kind: str):
    """Class decorator: add a class to MMEngine's root registry ``kind`` (``'MODELS'``, ...) and to mmpretrain's.

    The root alone does not do: asked for ``mmpretrain.X``, mmpretrain's own registry looks nowhere else.
    """

    def decorate(cls: type) -> type:
        for registries in (mmengine.registry, mmpretrain.registry):
            getattr(registries, kind).register_module(module=cls)
        return cls

    return decorate
