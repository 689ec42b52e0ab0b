from .backbones import ODBBBackbone
from .convert import to_odbb
from .odbb import ODBBlock
from .odbb_conv import ODBBConv2d

__all__ = ['ODBBBackbone', 'ODBBConv2d', 'ODBBlock', 'to_odbb']
