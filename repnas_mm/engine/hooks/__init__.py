from .fuse_hook import FuseHook
from .repnas_hook import RepNASHook

__all__ = ['FuseHook', 'RepNASHook']
