from .hooks import CheckFiniteHook, ExactResumeHook, FuseHook, RepNASHook, SafeLoadHook

__all__ = ['CheckFiniteHook', 'ExactResumeHook', 'FuseHook', 'RepNASHook', 'SafeLoadHook']
