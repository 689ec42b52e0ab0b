from .block import Block, ConvolutionBlock, find_blocks
from .branch_search import BranchSearch
from .genotype import PRESETS, Genotype, resolve_genotype
from .space import BRANCHES, find_candidates, sample_blocks, space_size

__all__ = [
    'BRANCHES',
    'PRESETS',
    'Block',
    'BranchSearch',
    'ConvolutionBlock',
    'Genotype',
    'find_blocks',
    'find_candidates',
    'resolve_genotype',
    'sample_blocks',
    'space_size',
]
