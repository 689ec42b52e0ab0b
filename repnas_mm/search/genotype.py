"""The result of a search: a `Genotype`, which branches each block keeps, on disk as JSON; and the hand-made ones."""

import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..checks import error_text, quote
from ..utils.fileio import atomic_write
from .block import find_blocks
from .copies import find_copies, find_originals
from .space import BRANCHES, Candidates, find_candidates, sample_blocks

FORMAT, VERSION = 'repnas_mm.genotype', 1

#: Hand-made blocks, all of them special cases of the search space. A block keeps what exists in it.
PRESETS: dict[str, tuple[str, ...]] = {
    'plain': ('kxk',),
    'acb': ('kxk', '1xk', 'kx1'),  # ACNet
    'repvgg': ('1x1', 'kxk', 'skip'),  # RepVGG
    'dbb': ('1x1', 'kxk', '1x1_kxk', '1x1_avg'),  # Diverse Branch Block
    'full': ('1x1', 'kxk', '1x1_kxk', '1x1_avg', '1xk', 'kx1', 'skip'),
}


def shipped_genotypes() -> dict[str, Path]:
    """Name -> JSON of every searched genotype that comes with the package."""
    folder = Path(__file__).resolve().parents[1] / 'genotypes'
    return {path.stem: path for path in sorted(folder.glob('*.json'))}


class Genotype(Mapping):
    """Ordered mapping: block name (as in the whole model) -> names of the branches it keeps.

    Args:
        blocks (Mapping[str, Sequence[str]]): Not empty, and no block empty.
        share_weights (bool): True if the branches of a block share one kernel; a subnet stays as shared as the
            supernet it was found in. Defaults to True.
        source (dict, optional): Its origin, anything that JSON can hold, for people to read.

    Example:
        >>> genotype = Genotype({'backbone.stem': ('kxk', '1x1')})
        >>> genotype.dump('genotype.json')
        >>> Genotype.load('genotype.json')['backbone.stem']
        ('1x1', 'kxk')
        >>> Genotype.load('odbb_a0_authors')  # shipped in repnas_mm/genotypes
        Genotype(22 blocks, 61 branches, share_weights=False)
    """

    def __init__(self, blocks: Mapping[str, Sequence[str]], share_weights: bool = True, source: dict | None = None):
        if not isinstance(blocks, Mapping) or not blocks:
            raise ValueError(f'"blocks" must map block names to branch names and not be empty, got {quote(blocks)}.')
        self._blocks = {name: _check_block(name, branches) for name, branches in blocks.items()}
        if not isinstance(share_weights, bool):
            raise TypeError(f'share_weights must be true or false, got {quote(share_weights)}.')
        self.share_weights = share_weights
        if source is not None and not isinstance(source, Mapping):
            raise TypeError(f'source must be a mapping, got {quote(source)}.')
        self.source = dict(source or {})

    def __getitem__(self, block: str) -> tuple[str, ...]:
        return self._blocks[block]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def __eq__(self, other: Any) -> bool:
        same = isinstance(other, Genotype) and self.share_weights == other.share_weights
        return same and self._blocks == other._blocks

    def __repr__(self) -> str:
        return f'Genotype({len(self)} blocks, {self.num_branches} branches, share_weights={self.share_weights})'

    @property
    def num_branches(self) -> int:
        """Branches kept over all blocks."""
        return sum(len(branches) for branches in self._blocks.values())

    @classmethod
    def from_model(cls, model: nn.Module, source: dict | None = None) -> 'Genotype':
        """Read which branches the blocks of ``model`` compute now; those of copies (`find_copies`) are left out."""
        blocks = {name: block for name, block in find_originals(model).items() if not block.deploy}
        if not blocks:
            raise ValueError(f'{type(model).__name__} has no unfused ODBB block to read a genotype from.')
        shared = {block.share_weights for block in blocks.values()}
        if len(shared) > 1:
            raise ValueError('Some ODBB blocks of the model share weights and some do not; a genotype needs one kind.')
        return cls({name: block.active_branches for name, block in blocks.items()}, shared.pop(), source)

    @classmethod
    def from_preset(
        cls, name: str, model: nn.Module | Candidates, num_branches: int | None = None, seed: int | None = None
    ) -> 'Genotype':
        """A hand-made or a random genotype for ``model``.

        Args:
            name: A key of `PRESETS`, or ``random``: drawn uniformly from all that keep ``num_branches`` branches.
            model: A model with ODBB blocks, or block name -> candidates.
            num_branches, seed: Of ``random``, which needs both; not accepted elsewhere.
        """
        found = find_candidates(model) if isinstance(model, nn.Module) else dict(model)
        if not found:
            raise ValueError(f'Preset {quote(name)} needs a model with ODBB blocks; {type(model).__name__} has none.')
        source: dict[str, Any] = dict(preset=name)
        if name == 'random':
            if num_branches is None or seed is None:
                raise ValueError("Preset 'random' needs num_branches and seed.")
            source.update(num_branches=num_branches, seed=seed)
            blocks = sample_blocks(found, num_branches, random.Random(seed))
        elif name in PRESETS:
            if num_branches is not None or seed is not None:
                raise ValueError(f"num_branches and seed belong to preset 'random', not to '{name}'.")
            blocks = {block: tuple(b for b in names if b in PRESETS[name]) for block, names in found.items()}
        else:
            raise ValueError(f'Unknown preset {quote(name)}; known presets are {", ".join(PRESETS)}, random.')
        return cls(blocks, share_weights=False, source=source)

    @classmethod
    def load(cls, path: str | Path) -> 'Genotype':
        """Read and check a genotype JSON; every error names the file and the key.

        Args:
            path: The file, or the name of a genotype shipped in ``repnas_mm/genotypes``.
        """
        shipped = shipped_genotypes()
        file = path if os.path.isfile(path) else shipped.get(str(path), path)
        try:
            return cls.from_dict(json.loads(Path(file).read_text(encoding='utf-8')))
        except OSError as e:
            raise FileNotFoundError(
                f'Genotype file {str(path)!r} cannot be read: {e.strerror}; a search leaves one in its work dir, and '
                f'the package ships {", ".join(shipped)}.'
            ) from e
        except (ValueError, TypeError) as e:
            raise ValueError(f'Genotype file {str(path)!r} is not valid: {error_text(e)}.') from e

    @classmethod
    def from_dict(cls, data: Mapping) -> 'Genotype':
        """Make one from what `to_dict` returns, checked."""
        if not isinstance(data, Mapping):
            raise TypeError(f'it must be an object with the key "blocks", got {type(data).__name__}.')
        known = {'format', 'version', 'num_branches', 'share_weights', 'source', 'blocks'}
        if unknown := sorted(set(map(str, data)) - known):
            raise ValueError(f'unknown key {json.dumps(unknown[0][:100])}; known keys are {", ".join(sorted(known))}.')
        if data.get('format') != FORMAT:
            raise ValueError(f'key "format" must be "{FORMAT}", got {quote(data.get("format"))}.')
        if data.get('version') != VERSION or type(data['version']) is not int:
            raise ValueError(f'key "version" must be {VERSION}, got {quote(data.get("version"))}.')
        genotype = cls(data.get('blocks', {}), data.get('share_weights', True), data.get('source'))
        number = data.get('num_branches', genotype.num_branches)
        if number != genotype.num_branches or type(number) is not int:
            raise ValueError(f'key "num_branches" is {quote(number)}, but the blocks keep {genotype.num_branches}.')
        return genotype

    def to_dict(self) -> dict:
        """Return what JSON can hold of it; `from_dict` reads it back."""
        return dict(
            format=FORMAT,
            version=VERSION,
            num_branches=self.num_branches,
            share_weights=self.share_weights,
            source=self.source,
            blocks={name: list(branches) for name, branches in self.items()},
        )

    def dump(self, path: str | Path) -> None:
        """Write the JSON, atomically."""
        with atomic_write(path) as f:
            f.write((json.dumps(self.to_dict(), indent=2) + '\n').encode())

    def restrict(self, candidates: Candidates) -> 'Genotype':
        """The part of a whole model's genotype that belongs to one submodule, under the submodule's own names.

        Args:
            candidates: Block name -> candidates of the submodule.

        Raises:
            ValueError: unless exactly the submodule's blocks are found under one prefix.
        """
        # prefix -> how many of the submodule's blocks are found under it
        found = Counter(n[: -len(own)] for n in self for own in candidates if f'.{n}'.endswith(f'.{own}'))
        (prefix, count), *others = found.most_common() or [('', 0)]
        if others and others[0][1] == count:
            raise ValueError(
                f'The genotype fits under {quote(prefix)} as well as under {quote(others[0][0])}; give only one of the '
                'two.'
            )
        own = {n[len(prefix) :]: branches for n, branches in self.items() if n.startswith(prefix)}
        genotype = Genotype(own, self.share_weights, self.source)
        genotype.check(candidates)
        return genotype

    def check(self, candidates: Candidates) -> None:
        """Raise ValueError unless this genotype is one of a model with these blocks."""
        hint = 'it belongs to another network.'
        if missing := [name for name in candidates if name not in self]:
            raise ValueError(f'The genotype has no block {quote(missing[0])} ({len(missing)} missing); {hint}')
        if unknown := [name for name in self if name not in candidates]:
            raise ValueError(
                f"The genotype's block {quote(unknown[0])} is not in the model ({len(unknown)} unknown); {hint}"
            )
        for name, branches in self.items():
            if absent := [branch for branch in branches if branch not in candidates[name]]:
                raise ValueError(f"The genotype's block '{name}' keeps '{absent[0]}', which cannot exist there; {hint}")

    def apply_to(self, model: nn.Module) -> None:
        """Turn the blocks of ``model``, and those of copies alike, into subnet form with these branches, in place."""
        self.check(find_candidates(model))
        blocks, copies = find_blocks(model), find_copies(model)
        kept = {name: self[copies.get(name, name)] for name in blocks}
        for name, block in blocks.items():
            left = () if block.deploy else block.active_branches if block.alpha is None else block.candidates
            if absent := [branch for branch in kept[name] if branch not in left]:
                raise ValueError(
                    f"Block '{name}' has lost its branch '{absent[0]}' already; start from the search form."
                )
        for name, block in blocks.items():
            block.switch_to_subnet(kept[name])

    def overlap(self, other: 'Genotype') -> float:
        """Branches kept by both ÷ branches kept by either (Jaccard index), 0 to 1."""
        mine, theirs = ({(n, b) for n, branches in g.items() for b in branches} for g in (self, other))
        return len(mine & theirs) / len(mine | theirs)


def resolve_genotype(genotype, candidates: Candidates) -> Genotype:
    """Make a `Genotype` for a model with these blocks from whatever a config may say.

    Args:
        genotype: A path to its JSON, a preset's name, the name of a genotype shipped in ``repnas_mm/genotypes``, a
            dict (`Genotype.to_dict`, or ``dict(preset='random', num_branches=61, seed=0)``), or a Genotype. Of one
            name, a preset goes before a file and a file before a shipped genotype.
        candidates: Block name -> candidates.
    """
    if isinstance(genotype, str | Path):
        if str(genotype) in PRESETS or str(genotype) == 'random':
            return Genotype.from_preset(str(genotype), candidates)
        shipped = shipped_genotypes()
        if str(genotype) not in shipped and not os.path.exists(genotype) and not str(genotype).endswith('.json'):
            raise ValueError(
                f'genotype={quote(str(genotype))} is neither a file nor a preset nor shipped; known presets are '
                f'{", ".join(PRESETS)}, random, and shipped genotypes are {", ".join(shipped)}.'
            )
        genotype = Genotype.load(genotype)
    elif isinstance(genotype, Mapping) and not isinstance(genotype, Genotype):
        if 'preset' in genotype:
            if unknown := sorted(set(genotype) - {'preset', 'num_branches', 'seed'}):
                raise ValueError(
                    f"genotype has unknown key {quote(unknown[0])} beside 'preset'; known are num_branches, seed."
                )
            arguments = dict(genotype)
            return Genotype.from_preset(arguments.pop('preset'), candidates, **arguments)
        genotype = Genotype.from_dict(genotype)
    elif not isinstance(genotype, Genotype):
        raise TypeError(f'genotype must be a path, a name, a dict or a Genotype, got {quote(genotype)}.')
    return genotype.restrict(candidates)


def _check_block(name: str, branches: Sequence[str]) -> tuple[str, ...]:
    """The branches of one block in the fixed order, or an error that names the block."""
    if isinstance(branches, str) or not isinstance(branches, Sequence):
        raise TypeError(f'block {quote(name)} must have a list of branch names, got {quote(branches)}.')
    for branch in branches:
        if not isinstance(branch, str) or branch not in BRANCHES:
            known = ', '.join(BRANCHES)
            raise ValueError(f'block {quote(name)} has unknown branch {quote(branch)}; known are {known}.')
    if not branches:
        raise ValueError(f'block {quote(name)} keeps no branch; every block needs at least one.')
    return tuple(branch for branch in BRANCHES if branch in branches)
