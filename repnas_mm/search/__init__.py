from .block import Block, ConvolutionBlock, find_blocks
from .branch_search import BranchSearch
from .genotype import PRESETS, Genotype, resolve_genotype
from .space import BRANCHES, draw_blocks, find_candidates, space_size

__all__ = [
    'BRANCHES',
    'PRESETS',
    'Block',
    'BranchSearch',
    'ConvolutionBlock',
    'Genotype',
    'draw_blocks',
    'find_blocks',
    'find_candidates',
    'resolve_genotype',
    'space_size',
]
