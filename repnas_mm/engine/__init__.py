from .hooks import FuseHook, RepNASHook
from .safe_globals import allow_history_buffer

allow_history_buffer()

__all__ = ['FuseHook', 'RepNASHook']
