from .check_finite_hook import CheckFiniteHook
from .exact_resume_hook import ExactResumeHook
from .fuse_hook import FuseHook
from .repnas_hook import RepNASHook
from .safe_load_hook import SafeLoadHook

__all__ = ['CheckFiniteHook', 'ExactResumeHook', 'FuseHook', 'RepNASHook', 'SafeLoadHook']
