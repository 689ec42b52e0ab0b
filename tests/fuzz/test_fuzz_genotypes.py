"""Whatever is in a genotype: it loads as what can be dumped and loaded again, or is refused with file and key."""

import json
import os
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outcome import Refused, attempt, fuzz
from torch import nn

from repnas_mm.models import ODBBBackbone, ODBBConv2d, ODBBlock
from repnas_mm.search import BRANCHES, Genotype, find_blocks, find_candidates, resolve_genotype

ARCH = dict(num_blocks=[2, 1], width_factor=[1, 1])
MODELS = [
    ODBBBackbone(ARCH, base_channels=2),
    nn.Sequential(ODBBlock(2, 2), nn.ReLU(), ODBBlock(2, 4, stride=2)),
    nn.ModuleDict(dict(backbone=ODBBBackbone(ARCH, base_channels=2), neck=ODBBConv2d(2, 2, 3, padding=1))),
]
VALID = [
    Genotype.from_preset('random', model, find_count, seed).to_dict()
    for model, find_count, seed in ((MODELS[0], 9, 0), (MODELS[1], 4, 1), (MODELS[2], 20, 2))
] + [Genotype.from_model(MODELS[0], dict(config='c.py', seed=3)).to_dict()]

WORDS = st.sampled_from(
    [*BRANCHES, 'KXK', 'stem', 'blocks', 'format', 'preset', '', ' ', 'a\nb', '\ud800', 'é' * 300, '\0']
)
NUMBERS = st.sampled_from([0, 1, 2, -1, 1.0, 1e308, float('nan'), float('-inf'), 10**80, 2**63])
LEAVES = st.none() | st.booleans() | NUMBERS | WORDS
VALUES = LEAVES | st.lists(WORDS, max_size=3) | st.dictionaries(WORDS, LEAVES, max_size=2) | st.just([[[{}]]])
PRESET_DICTS = st.fixed_dictionaries(
    dict(preset=LEAVES), optional=dict(num_branches=VALUES, seed=st.none() | st.integers())
)


def places(value, path=()):
    """The path to every value inside a JSON structure but the structure itself."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def all_places(index: int) -> list[tuple]:
    return list(places(VALID[index]))


PLACES = [all_places(index) for index in range(len(VALID))]


@st.composite
def mutated(draw):
    """A valid genotype with one to three changes somewhere in its tree."""
    index = draw(st.integers(0, len(VALID) - 1))
    data = deepcopy(VALID[index])
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(PLACES[index]))
        parent = data
        try:
            for key in parents:
                parent = parent[key]
            change(draw, parent, last)
        except (LookupError, TypeError):
            continue  # an earlier change took this place away
    return data


def change(draw, parent, key) -> None:
    """One change of the entry ``key`` of a dict or a list."""
    value = parent[key]
    how = draw(st.sampled_from(['replace', 'delete', 'rename', 'copy', 'wrap', 'retype', 'reverse']))
    if how == 'delete':
        del parent[key]
    elif how == 'rename' and isinstance(parent, dict):
        parent[draw(WORDS)] = parent.pop(key)
    elif how == 'copy' and isinstance(parent, list):
        parent.insert(key, value)
    elif how == 'copy':
        parent[draw(WORDS)] = deepcopy(value)
    elif how == 'wrap':
        parent[key] = draw(st.sampled_from([[value], {'kxk': value}, [value, value], {}]))
    elif how == 'retype':
        parent[key] = str(value) if draw(st.booleans()) else list(value) if isinstance(value, dict) else bool(value)
    elif how == 'reverse' and isinstance(value, dict):
        parent[key] = dict(reversed(value.items()))
    else:
        parent[key] = draw(VALUES)


def check_loaded(genotype: Genotype, folder: Path) -> None:
    """A genotype means something: it says what it says again from a file, and its blocks have known branches."""
    assert len(genotype) and all(genotype.values()) and type(genotype.share_weights) is bool
    assert {branch for kept in genotype.values() for branch in kept} <= set(BRANCHES)
    genotype.dump(folder / 'again.json')
    again = Genotype.load(folder / 'again.json')
    assert again == genotype and list(again) == list(genotype)
    assert Genotype.from_dict(genotype.to_dict()) == genotype


def check_file(content: bytes, folder: Path) -> None:
    path = folder / 'fuzzed.json'
    path.write_bytes(content)
    genotype = attempt(Genotype.load, path, names=[str(path)])
    if not isinstance(genotype, Refused):
        check_loaded(genotype, folder)
    assert set(os.listdir(folder)) <= {'fuzzed.json', 'again.json'}


@given(mutated())
@fuzz(2000)
def test_a_mutated_dict_is_a_genotype_or_refused(tmp_path, data):
    genotype = attempt(Genotype.from_dict, data, names=['key', 'block', 'share_weights', 'source', 'object'])
    if not isinstance(genotype, Refused):
        check_loaded(genotype, tmp_path)


@given(mutated())
@fuzz(1500)
def test_a_file_of_a_mutated_tree_is_a_genotype_or_refused(tmp_path, data):
    check_file(json.dumps(data).encode(), tmp_path)


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-32', 'cp037', 'utf-8-sig', 'utf-7'])
def test_a_file_that_is_not_utf_8_is_refused(tmp_path, encoding):
    content = json.dumps({**VALID[0], 'source': {'who': 'André+'}}, ensure_ascii=False).encode(encoding)
    check_file(content, tmp_path)


TEXTS = [json.dumps(data, indent=indent).encode() for data in VALID for indent in (None, 2)]


@given(st.data())
@fuzz(1300)
def test_a_file_of_mutated_text_is_a_genotype_or_refused(tmp_path, data):
    text = bytearray(data.draw(st.sampled_from(TEXTS)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 2000)) % max(len(text), 1)
        how = data.draw(st.sampled_from(['truncate', 'flip', 'replace', 'insert', 'repeat', 'cut']))
        if how == 'truncate':
            del text[max(at, 1) :]
        elif how == 'flip' and text:
            text[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == 'replace':
            text[at : at + 2] = data.draw(st.binary(max_size=3))
        elif how == 'insert':
            text[at:at] = data.draw(
                st.sampled_from([b'{', b'}', b'[', b',', b'"', b'null', b'1e999', b'\\ud800', b'\xff'])
            )
        elif how == 'repeat':
            text[at:at] = text[at : at + 40]
        else:
            del text[at : at + 20]
    check_file(bytes(text), tmp_path)


@given(mutated(), st.integers(0, len(MODELS) - 1))
@fuzz(200)
def test_what_loads_fits_the_model_or_is_refused_and_changes_nothing(data, index):
    genotype = attempt(Genotype.from_dict, data)
    if isinstance(genotype, Refused):
        genotype = Genotype.from_dict(VALID[index])
    model = deepcopy(MODELS[index])
    applied = attempt(genotype.apply_to, model, names=['block', 'Block'])
    if isinstance(applied, Refused):
        assert find_candidates(model) == {name: tuple(b.branches) for name, b in find_blocks(model).items()}
    else:
        assert dict(Genotype.from_model(model)) == dict(genotype)


@given(mutated() | PRESET_DICTS | VALUES)
@fuzz(300)
def test_a_configs_genotype_builds_that_backbone_or_is_refused(data):
    candidates = find_candidates(MODELS[0])
    genotype = attempt(resolve_genotype, data, candidates)
    if not isinstance(genotype, Refused):
        assert genotype.keys() == candidates.keys()
        assert dict(Genotype.from_model(ODBBBackbone(ARCH, base_channels=2, genotype=data))) == dict(genotype)


@given(st.data())
@fuzz(100)
def test_a_failing_dump_keeps_the_old_file_and_leaves_no_other(tmp_path, data):
    path = tmp_path / 'kept.json'
    old = Genotype({'a': ('kxk',)})
    old.dump(path)
    new = Genotype.from_dict(data.draw(st.sampled_from(VALID)))
    new.source = data.draw(st.sampled_from([dict(a=object()), {1: {2, 3}}, {(): 1}, {'a': b'x'}]))
    with pytest.raises(TypeError):
        new.dump(path)
    assert Genotype.load(path) == old and os.listdir(tmp_path) == ['kept.json']


@given(st.sampled_from(['', '.', '\0', 'a\nb.json', 'x' * 300, 'none/none.json']))
@fuzz(20)
def test_what_is_no_file_is_refused(path):
    assert isinstance(attempt(Genotype.load, path, names=['Genotype file']), Refused)
