"""A genotype is a checked mapping: what is read is what was written, and everything else is refused by name."""

import json
import os
import re
import tempfile
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from repnas_mm.models import ODBBBackbone, ODBBlock
from repnas_mm.search import BRANCHES, PRESETS, Genotype, find_blocks, find_candidates, resolve_genotype

NAMES = tuple(BRANCHES)
BLOCKS = {'backbone.stem': ('1x1', 'kxk'), 'backbone.stage_1.0': ('1x1_avg', 'skip')}
ARCH = dict(num_blocks=[2, 1], width_factor=[0.125, 0.125], strides=[1, 2])  # 8 channels everywhere

branches = st.lists(st.sampled_from(NAMES), min_size=1, unique=True).map(tuple)
names = st.text(st.characters(codec='utf-8'), max_size=12)
genotypes = st.builds(
    Genotype,
    st.dictionaries(names, branches, min_size=1, max_size=5),
    st.booleans(),
    st.dictionaries(names, st.integers() | names, max_size=2),
)


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return ODBBBackbone(ARCH, out_indices=(0, 1))


def is_one_sentence(message: str) -> bool:
    return message.endswith('.') and '\n' not in message and not re.search(r'\. [A-Z]', message)


def same(a: Genotype, b: Genotype) -> bool:
    return list(a.items()) == list(b.items()) and a.share_weights == b.share_weights and a.source == b.source


# --------------------------------------------------------------------------------------------- the mapping


def test_it_is_an_ordered_mapping_with_branches_in_the_fixed_order():
    genotype = Genotype({'b': ['skip', 'kxk', '1x1'], 'a': ('kx1',)})
    assert dict(genotype) == {'b': ('1x1', 'kxk', 'skip'), 'a': ('kx1',)}
    assert list(genotype) == ['b', 'a'] and len(genotype) == 2
    assert genotype.num_branches == 4
    assert genotype.share_weights is True and genotype.source == {}


def test_overlap_is_the_jaccard_index():
    a = Genotype({'x': ('kxk', '1x1'), 'y': ('skip',)})
    b = Genotype({'x': ('kxk', 'skip'), 'y': ('skip', '1xk')})
    assert a.overlap(b) == b.overlap(a) == 2 / 5
    assert a.overlap(a) == 1
    assert a.overlap(Genotype({'x': ('1xk',), 'y': ('kxk',)})) == 0
    assert a.overlap(Genotype({'other': ('kxk', '1x1', 'skip')})) == 0


# ------------------------------------------------------------------------------------------------- on disk


@given(genotype=genotypes)
@settings(deadline=None)
def test_load_returns_what_dump_wrote(genotype):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'genotype.json'
        genotype.dump(path)
        assert same(Genotype.load(path), genotype)
        assert same(Genotype.load(str(path)), genotype)


@given(genotype=genotypes)
@settings(deadline=None)
def test_from_dict_returns_what_to_dict_wrote(genotype):
    assert same(Genotype.from_dict(genotype.to_dict()), genotype)


def test_the_file_is_plain_versioned_json(tmp_path):
    Genotype(BLOCKS, share_weights=False, source=dict(seed=3)).dump(tmp_path / 'g.json')
    assert json.loads((tmp_path / 'g.json').read_text()) == {
        'format': 'repnas_mm.genotype',
        'version': 1,
        'num_branches': 4,
        'share_weights': False,
        'source': {'seed': 3},
        'blocks': {name: list(kept) for name, kept in BLOCKS.items()},
    }


@pytest.mark.parametrize('target', ['os.replace', 'os.fsync', 'json.dumps'])
def test_a_failing_dump_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, target):
    def fail(*_, **__):
        raise OSError(28, 'No space left on device')

    path = tmp_path / 'g.json'
    old = Genotype(BLOCKS)
    old.dump(path)
    monkeypatch.setattr(target, fail)
    with pytest.raises(OSError, match='No space left on device'):
        Genotype({'a': ('kxk',)}).dump(path)
    monkeypatch.undo()
    assert same(Genotype.load(path), old)
    assert os.listdir(tmp_path) == ['g.json']


def test_a_source_that_json_cannot_hold_keeps_the_old_file(tmp_path):
    path = tmp_path / 'g.json'
    Genotype(BLOCKS).dump(path)
    with pytest.raises(TypeError):
        Genotype({'a': ('kxk',)}, source=dict(model=object())).dump(path)
    assert same(Genotype.load(path), Genotype(BLOCKS))
    assert os.listdir(tmp_path) == ['g.json']


# --------------------------------------------------------------------------------------------- bad files


def valid() -> dict:
    return Genotype(BLOCKS).to_dict()


def changed(**changes) -> str:
    return json.dumps({**valid(), **changes})


def without(key: str) -> str:
    return json.dumps({k: v for k, v in valid().items() if k != key})


def block(kept) -> str:
    """A file whose one block, 'stem', is ``kept``."""
    return json.dumps({**{k: v for k, v in valid().items() if k != 'num_branches'}, 'blocks': {'stem': kept}})


BAD_FILES = {
    # name: (text, what the message has to say beside the file's name)
    'empty file': ('', 'line 1'),
    'not JSON': ('genotype: a', 'line 1'),
    'cut off': (changed()[:-9], 'line 1'),
    'text behind': (changed() + 'x', 'Extra data'),
    'null': ('null', '"blocks"'),
    'a number': ('3', '"blocks"'),
    'a string': ('"plain"', '"blocks"'),
    'a list': ('[]', '"blocks"'),
    'empty object': ('{}', '"format"'),
    'no format': (without('format'), '"format"'),
    'other format': (changed(format='other'), '"format"'),
    'null format': (changed(format=None), '"format"'),
    'list format': (changed(format=['repnas_mm.genotype']), '"format"'),
    'no version': (without('version'), '"version"'),
    'newer version': (changed(version=2), '"version"'),
    'text version': (changed(version='1'), '"version"'),
    'bool version': (changed(version=True), '"version"'),
    'nested version': (changed(version={'major': 1}), '"version"'),
    'unknown key': (changed(blokcs={}), '"blokcs"'),
    'no blocks': (without('blocks'), '"blocks"'),
    'empty blocks': (changed(blocks={}), 'blocks'),
    'null blocks': (changed(blocks=None), 'blocks'),
    'list of blocks': (changed(blocks=[['kxk']]), 'blocks'),
    'text for blocks': (changed(blocks='full'), 'blocks'),
    'number for blocks': (changed(blocks=7), 'blocks'),
    'empty block': (block([]), "'stem'"),
    'null block': (block(None), "'stem'"),
    'text block': (block('kxk'), "'stem'"),
    'number block': (block(3), "'stem'"),
    'bool block': (block(True), "'stem'"),
    'object block': (block({'kxk': True}), "'stem'"),
    'unknown branch': (block(['kxk', '3x3']), "'stem' has unknown branch '3x3'"),
    'other case': (block(['KxK']), "'stem' has unknown branch 'KxK'"),
    'number branch': (block([1]), "'stem'"),
    'null branch': (block([None]), "'stem'"),
    'list branch': (block([['kxk']]), "'stem'"),
    'object branch': (block([{'kxk': 1}]), "'stem'"),
    'too many': (changed(num_branches=5), '"num_branches"'),
    'null number': (changed(num_branches=None), '"num_branches"'),
    'text number': (changed(num_branches='4'), '"num_branches"'),
    'NaN number': (changed(num_branches=float('nan')), '"num_branches"'),
    'text share_weights': (changed(share_weights='no'), 'share_weights'),
    'number share_weights': (changed(share_weights=1), 'share_weights'),
    'null share_weights': (changed(share_weights=None), 'share_weights'),
    'text source': (changed(source='me'), 'source'),
    'list source': (changed(source=[1]), 'source'),
    'huge number': ('{"version": ' + '9' * 10_000 + '}', ''),
}


@pytest.mark.parametrize('case', BAD_FILES)
def test_a_malformed_file_is_refused_with_its_name_and_key(tmp_path, case):
    text, words = BAD_FILES[case]
    path = tmp_path / 'bad.json'
    path.write_text(text)
    with pytest.raises(ValueError) as e:
        Genotype.load(path)
    message = str(e.value)
    assert str(path) in message and words in message
    assert '\n' not in message and not re.search(r'\. [A-Z]', message)


@pytest.mark.parametrize('content', [b'\x80\x02}q\x00.', b'\x89PNG\r\n\x1a\n', bytes(range(256)), b'\0\0\0\0'])
def test_a_binary_file_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / 'genotype.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        Genotype.load(path)


@pytest.mark.parametrize('name', ['missing.json', 'missing/g.json', '.', 'g.json/below'])
def test_what_is_no_file_is_refused_with_its_name(tmp_path, name):
    Genotype(BLOCKS).dump(tmp_path / 'g.json')
    with pytest.raises(FileNotFoundError) as e:
        Genotype.load(tmp_path / name)
    assert str(tmp_path / name) in str(e.value) and is_one_sentence(str(e.value))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(NAMES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Yield the path to every value inside a JSON structure, the structure itself included."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@given(data=st.data(), value=json_values)
@settings(max_examples=300, deadline=None)
def test_a_mutated_file_loads_or_is_refused_with_its_name(data, value):
    root = [valid()]
    *parents, last = data.draw(st.sampled_from([place for place in places(root) if place]))
    parent = root
    for key in parents:
        parent = parent[key]
    how = data.draw(st.sampled_from(['replace', 'delete', 'insert']))
    if how == 'replace' or parent is root:
        parent[last] = value
    elif how == 'delete':
        del parent[last]
    elif isinstance(parent, list):
        parent.insert(last, value)
    else:
        parent[data.draw(st.text(max_size=5) | st.sampled_from(NAMES))] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'mutated.json'
        path.write_text(json.dumps(root[0]), encoding='utf-8')
        try:
            genotype = Genotype.load(path)
        except ValueError as e:
            assert str(path) in str(e)
            return
        assert len(genotype) and all(genotype.values())
        assert {branch for kept in genotype.values() for branch in kept} <= set(NAMES)
        assert type(genotype.share_weights) is bool


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_mutated_text_loads_or_is_refused_with_its_name(data):
    text = bytearray(json.dumps(valid()).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'mutated.json'
        path.write_bytes(text)
        try:
            assert len(Genotype.load(path))
        except ValueError as e:
            assert str(path) in str(e)


# ------------------------------------------------------------------------------------ presets and models


EXPECTED_PRESETS = {
    'plain': {'kxk'},
    'acb': {'kxk', '1xk', 'kx1'},
    'repvgg': {'1x1', 'kxk', 'skip'},
    'dbb': {'kxk', '1x1', '1x1_kxk', '1x1_avg'},
    'full': set(NAMES),
}


def test_the_presets_are_the_known_blocks():
    assert {name: set(kept) for name, kept in PRESETS.items()} == EXPECTED_PRESETS


@pytest.mark.parametrize('name', EXPECTED_PRESETS)
def test_a_preset_keeps_what_exists_and_is_unshared(backbone, name):
    genotype = Genotype.from_preset(name, backbone)
    assert genotype.share_weights is False
    assert genotype.source == dict(preset=name)
    assert list(genotype) == list(find_blocks(backbone))
    for block_name, kept in genotype.items():
        exists = set(NAMES) if block_name.startswith('stage_1') else set(NAMES) - {'skip'}
        assert set(kept) == EXPECTED_PRESETS[name] & exists


def test_a_random_preset_keeps_exactly_c_and_is_reproducible(backbone):
    draws = [Genotype.from_preset('random', backbone, num_branches=13, seed=seed) for seed in (5, 5, 6)]
    assert draws[0] == draws[1] != draws[2]
    assert all(genotype.num_branches == 13 and not genotype.share_weights for genotype in draws)
    assert draws[0].source == dict(preset='random', num_branches=13, seed=5)
    draws[0].check(find_candidates(backbone))


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(name='resnet'), "Unknown preset 'resnet'"),
        (dict(name='random'), 'needs num_branches and seed'),
        (dict(name='random', num_branches=9), 'needs num_branches and seed'),
        (dict(name='random', seed=9), 'needs num_branches and seed'),
        (dict(name='random', num_branches=3, seed=0), 'num_branches=3 is less than the 4 ODBB blocks'),
        (dict(name='plain', seed=0), "not to 'plain'"),
        (dict(name='full', num_branches=9), "not to 'full'"),
    ],
)
def test_a_preset_with_wrong_arguments_is_refused(backbone, arguments, words):
    with pytest.raises(ValueError, match=words):
        Genotype.from_preset(model=backbone, **arguments)


def test_a_preset_for_a_model_without_blocks_is_refused():
    with pytest.raises(ValueError, match='Linear has none'):
        Genotype.from_preset('plain', nn.Linear(2, 2))


def test_from_model_reads_what_the_blocks_compute(backbone):
    assert Genotype.from_model(backbone).num_branches == 2 * 6 + 2 * 7
    backbone.stem.set_active([name in ('kxk', '1xk') for name in backbone.stem.candidates])
    backbone.stage_1[1].switch_to_subnet(['skip'])
    genotype = Genotype.from_model(backbone, source=dict(epoch=3))
    assert genotype['stem'] == ('kxk', '1xk')
    assert genotype['stage_1.1'] == ('skip',)
    assert genotype.share_weights is False and genotype.source == dict(epoch=3)
    assert Genotype.from_model(ODBBBackbone(ARCH, share_weights=True)).share_weights is True


def test_from_model_needs_unfused_blocks_of_one_kind(backbone):
    mixed = nn.Sequential(ODBBlock(4, 4), ODBBlock(4, 4, share_weights=True))
    with pytest.raises(ValueError, match='one kind'):
        Genotype.from_model(mixed)
    backbone.switch_to_deploy()
    with pytest.raises(ValueError, match='no unfused ODBB block'):
        Genotype.from_model(backbone)


@pytest.mark.parametrize('share_weights', [True, False])
def test_apply_to_makes_subnets_that_compute_the_same(share_weights):
    torch.manual_seed(0)
    model = ODBBBackbone(ARCH, share_weights=share_weights)
    model(torch.randn(4, 3, 16, 16))  # running statistics that are not 0 and 1
    genotype = Genotype.from_preset('random', model, num_branches=12, seed=0)
    subnet = deepcopy(model)
    genotype.apply_to(subnet)
    for name, block in find_blocks(model).items():
        block.set_active([branch in genotype[name] for branch in block.candidates])
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(subnet.eval()(x)[0], model.eval()(x)[0])
    for name, block in find_blocks(subnet).items():
        assert tuple(block.branches) == genotype[name]
        assert block.alpha is None and block.active is None
    assert dict(Genotype.from_model(subnet)) == dict(genotype)


def test_apply_to_another_network_is_refused_and_changes_nothing(backbone):
    genotype = Genotype({name: ('kxk',) for name in list(find_blocks(backbone))[:-1]})
    with pytest.raises(ValueError, match=re.escape("no block 'stage_2.0' (1 missing)")):
        genotype.apply_to(backbone)
    assert all(block.searchable for block in find_blocks(backbone).values())


@pytest.mark.parametrize('spoil', [lambda b: b.switch_to_subnet(['1x1']), lambda b: b.switch_to_deploy()])
def test_apply_to_a_network_that_lost_branches_is_refused_and_changes_nothing(backbone, spoil):
    spoil(backbone.stage_2[0])
    with pytest.raises((ValueError, RuntimeError)):
        Genotype({name: ('kxk',) for name in find_blocks(backbone)}).apply_to(backbone)
    assert backbone.stem.searchable


CANDIDATES = {'stem': NAMES[:-1], 'stage_1.0': NAMES}


@pytest.mark.parametrize(
    'blocks, words',
    [
        ({'stem': ('kxk',)}, "no block 'stage_1.0' (1 missing)"),
        ({'stem': ('kxk',), 'stage_1.0': ('kxk',), 'stage_9.0': ('kxk',)}, "block 'stage_9.0' is not in the model"),
        ({'stem': ('kxk', 'skip'), 'stage_1.0': ('kxk',)}, "block 'stem' keeps 'skip', which cannot exist"),
    ],
)
def test_check_names_what_does_not_fit(blocks, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Genotype(blocks).check(CANDIDATES)


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.backbone.'])
def test_restrict_takes_the_prefix_off(prefix):
    blocks = {f'{prefix}stem': ('kxk', '1x1'), f'{prefix}stage_1.0': ('skip',)}
    restricted = Genotype(blocks, share_weights=False, source=dict(seed=1)).restrict(CANDIDATES)
    assert same(restricted, Genotype(dict(zip(CANDIDATES, blocks.values())), False, dict(seed=1)))


def test_restrict_leaves_the_rest_of_the_model_out():
    blocks = {'backbone.stem': ('kxk',), 'backbone.stage_1.0': ('skip',), 'neck.conv': ('1x1',)}
    assert dict(Genotype(blocks).restrict(CANDIDATES)) == {'stem': ('kxk',), 'stage_1.0': ('skip',)}


@pytest.mark.parametrize(
    'blocks, words',
    [
        ({'backbone.stem': ('kxk',)}, "no block 'stage_1.0'"),
        ({'backbone.stage_1.0': ('kxk',)}, "no block 'stem'"),
        ({'neck.conv': ('kxk',)}, "no block 'stem' (2 missing)"),
        ({'backbone.stem': ('skip',), 'backbone.stage_1.0': ('skip',)}, "block 'stem' keeps 'skip'"),
        ({f'backbone.{name}': ('kxk',) for name in ('stem', 'stage_1.0', 'stage_2.0')}, "block 'stage_2.0' is not"),
    ],
)
def test_restrict_names_what_does_not_fit(blocks, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Genotype(blocks).restrict(CANDIDATES)


# -------------------------------------------------------------------------------------- resolve_genotype


WANTED = Genotype({'stem': ('1x1', 'kxk'), 'stage_1.0': ('1x1_avg', 'skip')})


def test_resolve_takes_a_path_a_dict_and_a_genotype(tmp_path):
    genotype = Genotype(BLOCKS)
    path = tmp_path / 'genotype.json'
    genotype.dump(path)
    for given_as in (path, str(path), genotype.to_dict(), genotype):
        assert same(resolve_genotype(given_as, CANDIDATES), WANTED)


def test_resolve_takes_a_file_of_any_name(tmp_path):
    Genotype(BLOCKS).dump(tmp_path / 'found')
    assert same(resolve_genotype(str(tmp_path / 'found'), CANDIDATES), WANTED)


@pytest.mark.parametrize('name', EXPECTED_PRESETS)
def test_resolve_takes_a_presets_name_and_a_presets_dict(name):
    expected = Genotype.from_preset(name, CANDIDATES)
    assert same(resolve_genotype(name, CANDIDATES), expected)
    assert same(resolve_genotype(dict(preset=name), CANDIDATES), expected)


def test_resolve_takes_a_random_presets_dict():
    config = dict(preset='random', num_branches=6, seed=2)
    expected = Genotype.from_preset('random', CANDIDATES, num_branches=6, seed=2)
    assert same(resolve_genotype(config, CANDIDATES), expected)
    assert config == dict(preset='random', num_branches=6, seed=2)


@pytest.mark.parametrize(
    'genotype, error, words',
    [
        ('resnet', ValueError, "genotype='resnet' is neither a file nor a preset"),
        ('missing.json', FileNotFoundError, "Genotype file 'missing.json' cannot be read"),
        (Path('missing.json'), FileNotFoundError, "Genotype file 'missing.json' cannot be read"),
        ('random', ValueError, 'needs num_branches and seed'),
        (3, TypeError, 'got 3'),
        (None, TypeError, 'got None'),
        (['kxk'], TypeError, re.escape("got ['kxk']")),
        (dict(BLOCKS), ValueError, 'unknown key "backbone'),
        (dict(preset='resnet'), ValueError, "Unknown preset 'resnet'"),
        (Genotype({'other': ('kxk',)}), ValueError, "no block 'stem'"),
    ],
)
def test_resolve_refuses_anything_else(genotype, error, words):
    with pytest.raises(error, match=words):
        resolve_genotype(genotype, CANDIDATES)


def test_resolve_refuses_json_text_in_the_place_of_a_path():
    text = json.dumps(Genotype({f'stage_{i}': NAMES for i in range(20)}).to_dict())
    with pytest.raises(ValueError, match='neither a file nor a preset'):
        resolve_genotype(text, CANDIDATES)


def test_resolve_refuses_a_folder_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        resolve_genotype(str(tmp_path), CANDIDATES)


def test_a_backbone_is_built_from_a_whole_models_genotype():
    genotype = Genotype(
        {'backbone.stem': ('kxk',), 'backbone.stage_1.0': ('skip',), 'backbone.stage_1.1': ('1x1', 'kxk')}
        | {'backbone.stage_2.0': ('1x1_avg',)},
        share_weights=False,
    )
    backbone = ODBBBackbone(ARCH, genotype=genotype.to_dict())
    built = Genotype.from_model(backbone)
    assert {f'backbone.{name}': kept for name, kept in built.items()} == dict(genotype)
    assert built.share_weights is False
