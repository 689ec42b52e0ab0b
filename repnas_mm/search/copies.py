"""Second copies of a network inside a model, which no gradient trains: mean teachers, momentum encoders."""

from collections.abc import Mapping

from torch import nn

from .block import Block, find_blocks

#: Whose class says nothing about what is in them
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def find_copied_networks(model: nn.Module) -> dict[str, str]:
    """Name of a network that is a copy -> name of the network that it copies.

    A copy is a submodule of the same class as another one, with blocks of the same names and shapes, none of which
    trains, while some of the other one do. Frozen stages are no copies of their neighbours, which differ in the names
    of their blocks, or are mere containers.
    """
    blocks = find_blocks(model)
    trains = [name for name, block in blocks.items() if _trains(block)]
    pairs = set()
    for name in blocks.keys() - trains:
        ends = {other: _common_end(name, other) for other in trains}
        longest = max(ends.values(), default=0)
        found = [other for other, end in ends.items() if end == longest]
        if longest and len(found) == 1:  # two networks that train leave open which one it follows
            pairs.add((_cut(name, longest), _cut(found[0], longest)))
    return {copy: twin for copy, twin in sorted(pairs) if _is_copy(model, blocks, copy, twin)}


def find_copies(model: nn.Module) -> dict[str, str]:
    """Name of each block in a copied network (`find_copied_networks`) -> name of the block that it copies."""
    blocks = find_blocks(model)
    return {
        _join(copy, name): _join(twin, name)
        for copy, twin in find_copied_networks(model).items()
        for name in _inside(blocks, copy)
    }


def find_originals(model: nn.Module) -> dict[str, Block]:
    """`find_blocks` less those of `find_copies`: the blocks that a genotype is about."""
    copies = find_copies(model)
    return {name: block for name, block in find_blocks(model).items() if name not in copies}


def _trains(block) -> bool:
    return any(parameter.requires_grad for parameter in block.parameters())


def _common_end(first: str, second: str) -> int:
    """Count how many parts at the end of two dotted names are the same."""
    pairs = zip(reversed(first.split('.')), reversed(second.split('.')))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(first.count('.'), second.count('.')) + 1)


def _cut(name: str, parts: int) -> str:
    return '.'.join(name.split('.')[:-parts])


def _join(network: str, name: str) -> str:
    return f'{network}.{name}' if network else name


def _inside(blocks: Mapping[str, Block], network: str) -> dict[str, Block]:
    prefix = _join(network, '')
    return {name.removeprefix(prefix): block for name, block in blocks.items() if name.startswith(prefix)}


def _is_copy(model: nn.Module, blocks: Mapping[str, Block], copy: str, twin: str) -> bool:
    kind = type(model.get_submodule(copy))
    if kind is not type(model.get_submodule(twin)) or issubclass(kind, _CONTAINERS):
        return False
    if any(_trains(block) for block in _inside(blocks, copy).values()):
        return False
    # a model may hold a copy of itself
    others = {name: block for name, block in blocks.items() if not name.startswith(f'{copy}.')}
    return _shapes(_inside(blocks, copy)) == _shapes(_inside(others, twin))


def _shapes(blocks: Mapping[str, Block]) -> dict[str, dict]:
    return {
        name: {key: value.shape for key, value in block.state_dict().items()}  # type: ignore[attr-defined]
        for name, block in blocks.items()
    }
