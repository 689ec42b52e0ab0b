from .backbones import ODBBBackbone
from .odbb import ODBBlock

__all__ = ['ODBBBackbone', 'ODBBlock']
