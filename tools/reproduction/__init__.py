"""The tables and figures of the paper, made anew at several scales; `tools/reproduce.py` runs it."""

from . import controls as controls  # registers what its item searches with
from .lab import Lab
from .scales import SCALES

#: Item of the paper -> the module of `items` that makes it
ITEMS = {
    'table2': 'table2',
    'table3': 'table3',
    'table4': 'table4',
    'table5': 'table5',
    'figure1': 'figure1',
    'figure4': 'figure4',
    'figure5': 'figure5',
    'figures6-11': 'genotypes',
    'schedule': 'schedule',
    'deep': 'deep',
    'stock': 'stock',
    'controls': 'controls',
    'int8': 'int8',
    'int8-vgg16': 'int8_vgg16',
}

__all__ = ['ITEMS', 'SCALES', 'Lab']
