"""The search's own part of a checkpoint, under the key ``repnas``."""

from collections.abc import Iterable, Mapping
from typing import TypedDict, cast

from ..checks import quote


class SearchState(TypedDict):
    """All that a resumed search needs beyond the weights and α."""

    #: Name of the strategy, 'sample' or 'shrink'
    strategy: str
    #: `BranchSearch.state_dict`
    search: dict
    #: State dict of α's optimizer
    alpha_optimizer: dict
    #: The iterations in which α learns, `Strategy.learning`; None in checkpoints from before it was written
    learning: tuple[int, int] | None
    #: Mask of the frozen genotype, and of the choice that was reported last; None before there is one
    genotype: list[bool] | None
    logged: list[bool] | None


def read_search_state(checkpoint: Mapping, strategy: str) -> SearchState:
    """Take the state of the search by ``strategy`` out of the checkpoint to resume from.

    Raises:
        ValueError: if there is none, or one of another version or strategy.
    """
    if 'repnas' not in checkpoint:
        raise ValueError(
            'The checkpoint to resume from was not written by a search; start from its weights with load_from '
            'instead of resuming.'
        )
    state, expected = checkpoint['repnas'], SearchState.__annotations__
    if isinstance(state, Mapping):
        state = {'strategy': 'sample', 'learning': None, **state}  # sample was the only one when no key said so
    if not isinstance(state, Mapping) or state.keys() != expected.keys():
        raise ValueError(
            f"The checkpoint's state of the search does not consist of {', '.join(expected)}; it is of another version "
            'of repnas_mm, so start from its weights with load_from instead of resuming.'
        )
    if state['strategy'] != strategy:
        raise ValueError(
            f'The checkpoint is of a search with strategy={quote(state["strategy"])}, and RepNASHook has '
            f'strategy={quote(strategy)}; to resume it, set strategy={quote(state["strategy"])}.'
        )
    return cast(SearchState, state)


def check_searchable(checkpoint: Mapping, blocks: Iterable[str]) -> None:
    """Raise ValueError if one of these blocks is a subnet in the checkpoint: a search could not start from it."""
    keys = checkpoint.get('state_dict', {})
    with_branches = {key.split('.branches.')[0] for key in keys if '.branches.' in key}
    if fixed := [block for block in blocks if block in with_branches and f'{block}.alpha' not in keys]:
        raise ValueError(
            f"The checkpoint holds block '{fixed[0]}' as a subnet, with nothing left to search; remove RepNASHook "
            'to train the subnet, or start from the checkpoint of a search or of an ordinary model.'
        )
