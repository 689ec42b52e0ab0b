from .fileio import atomic_write, check_writable, save_atomic

__all__ = ['atomic_write', 'check_writable', 'save_atomic']
