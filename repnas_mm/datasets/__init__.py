from .coco_digits import write_coco_digits
from .digits import Digits

__all__ = ['Digits', 'write_coco_digits']
