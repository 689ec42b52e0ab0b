"""The two ways to search: `Shrink` trains many branches and cuts once; `Sample`, Algorithm 1, draws them.

What differs between them is here, behind one protocol; the schedule that is common is `RepNASHook`.
"""

from collections.abc import Callable

from ...checks import quote
from .protocol import PAPER_OPTIMIZER, Strategy
from .sample import Sample
from .shrink import CANDIDATES, Shrink, check_absorbing, start_shrinking

STRATEGIES: dict[str, Callable[..., Strategy]] = dict(shrink=Shrink, sample=Sample)


def build_strategy(name: str, *args) -> Strategy:
    """Build the strategy with this name from the arguments of `Sample`."""
    if not isinstance(name, str) or name not in STRATEGIES:
        raise ValueError(f'Unknown strategy {quote(name)} of RepNASHook; known are {", ".join(STRATEGIES)}.')
    return STRATEGIES[name](*args)


__all__ = [
    'CANDIDATES',
    'PAPER_OPTIMIZER',
    'STRATEGIES',
    'Sample',
    'Shrink',
    'Strategy',
    'build_strategy',
    'check_absorbing',
    'start_shrinking',
]
