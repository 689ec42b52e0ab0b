from .hooks import CheckFiniteHook, ExactResumeHook, FuseHook, RepNASHook, SafeLoadHook
from .shrinking import Shrinking

__all__ = ['CheckFiniteHook', 'ExactResumeHook', 'FuseHook', 'RepNASHook', 'SafeLoadHook', 'Shrinking']
