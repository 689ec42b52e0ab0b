"""Genotypes that come with the package are found by name, and are what their source says."""

import json
import re
import runpy
from pathlib import Path

import pytest
from mmengine.config import Config

from repnas_mm.models import ODBBBackbone
from repnas_mm.search import PRESETS, Genotype, find_candidates, resolve_genotype
from repnas_mm.search.genotype import shipped_genotypes

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'repnas_mm' / 'genotypes'
FILES = sorted(FOLDER.iterdir())
AUTHORS = 'odbb_a0_authors'

#: The authors' branches of each layer, in forward order.
EXPECTED = {
    'stem': 'kxk 1x1_kxk',
    'stage_1.0': 'kxk 1x1_kxk',
    'stage_1.1': 'kxk skip',
    'stage_2.0': 'kxk 1x1_kxk',
    'stage_2.1': '1x1_kxk skip',
    'stage_2.2': '1x1_kxk skip',
    'stage_2.3': 'kxk 1x1_kxk skip',
    'stage_3.0': 'kxk 1x1_kxk',
    'stage_3.1': 'kxk 1x1_kxk skip',
    'stage_3.2': '1x1_kxk skip',
    'stage_3.3': 'kxk 1x1_kxk skip',
    'stage_3.4': 'kxk 1x1_kxk 1xk skip',
    'stage_3.5': 'kxk 1x1_kxk skip',
    'stage_3.6': 'kxk 1x1_kxk skip',
    'stage_3.7': 'kxk 1x1_kxk skip',
    'stage_3.8': 'kxk 1x1_kxk skip',
    'stage_3.9': 'kxk 1x1_kxk skip',
    'stage_3.10': 'kxk 1x1_kxk skip',
    'stage_3.11': 'kxk 1x1_kxk skip',
    'stage_3.12': '1x1_kxk skip',
    'stage_3.13': 'kxk 1x1_kxk skip',
    'stage_4.0': '1x1 kxk 1x1_kxk 1x1_avg 1xk kx1',
}


@pytest.fixture(scope='module')
def a0():
    """Candidates of ODBB-A0."""
    return find_candidates(ODBBBackbone(arch='A0'))


def is_one_sentence(error) -> bool:
    message = str(error.value)
    return message.endswith('.') and '\n' not in message and not re.search(r'\. [A-Z]', message)


def test_every_file_of_the_folder_is_shipped_under_its_name():
    assert shipped_genotypes() == {path.name.removesuffix('.json'): path for path in FILES}
    assert AUTHORS in shipped_genotypes()


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_every_shipped_genotype_loads_and_says_where_it_is_from(path, tmp_path):
    genotype = Genotype.load(path)
    assert '' not in genotype.source.values() and genotype.source['from']
    assert path.stem not in {*PRESETS, 'random'}
    by_name = Genotype.load(path.stem)
    assert by_name == genotype and by_name.source == genotype.source
    genotype.dump(tmp_path / 'again.json')
    assert (tmp_path / 'again.json').read_bytes() == path.read_bytes()


@pytest.mark.parametrize('path', [path for path in FILES if path.stem != AUTHORS], ids=lambda path: path.stem)
def test_a_searched_genotype_names_its_config_its_log_and_fits(path):
    genotype = Genotype.load(path)
    cfg = Config.fromfile(ROOT / 'configs' / genotype.source['config'])
    cfg.model.backbone.pop('type')
    backbone = ODBBBackbone(**cfg.model.backbone, genotype=path.stem)
    assert Genotype.from_model(backbone).num_branches == genotype.num_branches == genotype.source['num_branches']
    last = json.loads((ROOT / genotype.source['log']).read_text().splitlines()[-1])
    assert last['accuracy/top1'] == pytest.approx(genotype.source['top-1 of the search itself (%)'], abs=0.01)


def test_the_authors_genotype_is_the_published_one(a0):
    genotype = Genotype.load(AUTHORS)
    assert list(genotype) == [f'backbone.{name}' for name in EXPECTED] == [f'backbone.{name}' for name in a0]
    assert {name: set(kept) for name, kept in genotype.items()} == {
        f'backbone.{name}': set(kept.split()) for name, kept in EXPECTED.items()
    }
    assert genotype.num_branches == 61 and genotype.share_weights is False
    assert all(('skip' in genotype[f'backbone.{name}']) == ('skip' in exists) for name, exists in a0.items())
    assert 'https://arxiv.org/abs/2109.03508' in genotype.source.values()


def test_a_backbone_is_built_from_the_name():
    built = Genotype.from_model(ODBBBackbone(arch='A0', genotype=AUTHORS))
    assert {name: set(kept) for name, kept in built.items()} == {n: set(kept.split()) for n, kept in EXPECTED.items()}
    assert built.share_weights is False


def test_another_network_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match='it belongs to another network') as e:
        ODBBBackbone(arch='B1', genotype=AUTHORS)
    assert is_one_sentence(e)


@pytest.mark.parametrize('name', ['odbb_a0', 'ODBB_A0_AUTHORS', 'genotypes/odbb_a0_authors', ''])
def test_an_unknown_name_is_refused_with_all_names(name, a0):
    with pytest.raises(ValueError, match='neither a file nor a preset nor shipped') as e:
        resolve_genotype(name, a0)
    assert is_one_sentence(e)
    assert all(known in str(e.value) for known in [*PRESETS, 'random', *shipped_genotypes()])


@pytest.mark.parametrize('name', ['missing', 'odbb_a0_authors.json'])
def test_a_missing_file_is_refused_with_the_shipped_names(name):
    with pytest.raises(FileNotFoundError, match=f"'{name}' cannot be read.* ships {AUTHORS}") as e:
        Genotype.load(name)
    assert is_one_sentence(e)


def test_a_file_goes_before_a_shipped_name_and_a_folder_does_not(a0, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(AUTHORS).mkdir()
    assert resolve_genotype(AUTHORS, a0)['stem'] == ('kxk', '1x1_kxk')
    Path(AUTHORS).rmdir()
    Genotype.from_preset('acb', a0).dump(AUTHORS)
    assert resolve_genotype(AUTHORS, a0)['stem'] == ('kxk', '1xk', 'kx1')


def test_a_preset_goes_before_a_shipped_name(a0, tmp_path, monkeypatch):
    monkeypatch.setattr('repnas_mm.search.genotype.shipped_genotypes', lambda: {'plain': FOLDER / f'{AUTHORS}.json'})
    assert resolve_genotype('plain', a0)['stem'] == ('kxk',)


def test_plot_genotype_draws_a_shipped_one_into_the_current_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / 'tools' / 'plot_genotype.py'))['main']([AUTHORS])
    assert capsys.readouterr().out.split() == [f'{AUTHORS}.png', f'{AUTHORS}.svg']
    assert sorted(path.name for path in tmp_path.iterdir()) == [f'{AUTHORS}.png', f'{AUTHORS}.svg']
    assert sorted(FOLDER.iterdir()) == FILES
