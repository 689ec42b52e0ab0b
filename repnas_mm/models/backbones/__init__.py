from .odbb_backbone import ODBBBackbone

__all__ = ['ODBBBackbone']
