"""model-index.yml: our networks are found by mim and mmpretrain, and what it says of them is true of the built ones."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mmpretrain
import pytest
import torch
import yaml
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.registry import init_default_scope

from repnas_mm import model_hub

ROOT = Path(__file__).resolve().parents[1]


def mim(*command) -> str:
    """In a process of its own: mim imports pip, whose typing_extensions break typing for what is imported later."""
    done = subprocess.run(
        [sys.executable, '-m', 'mim', *map(str, command)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def entries(metafile: str) -> dict[str, dict]:
    models = yaml.safe_load((ROOT / metafile).read_text())['Models']
    assert len({model['Name'] for model in models}) == len(models)
    return {model['Name']: model for model in models}


CLASSIFIERS, DETECTORS = (entries(f'configs/metafile{kind}.yml') for kind in ('', '_detection'))
MODELS = CLASSIFIERS | DETECTORS


def test_the_index_has_both_metafiles():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert index == {'Import': ['configs/metafile.yml', 'configs/metafile_detection.yml']}
    assert len(MODELS) == len(CLASSIFIERS) + len(DETECTORS)
    assert {path.stem for path in ROOT.glob('configs/odbb_*_imagenet*.py')} <= {*CLASSIFIERS}


@pytest.mark.parametrize('name', MODELS)
def test_an_entry_names_its_config_and_schedule(name):
    # mim and mmpretrain look names up in lower case
    assert MODELS[name]['Config'] == f'configs/{name}.py' == f'configs/{name}.py'.lower()
    cfg = Config.fromfile(ROOT / MODELS[name]['Config'])
    said = MODELS[name]['Metadata']
    dataset = cfg.train_dataloader.dataset
    assert said['Epochs'] == cfg.train_cfg.max_epochs * dataset.get('times', 1)
    assert said['Batch Size'] == cfg.auto_scale_lr.base_batch_size
    kind = dataset.get('dataset', dataset).type
    assert kind.startswith({'ImageNet-1k': 'ImageNet', 'CIFAR-10': 'CIFAR10', 'COCO': 'Coco'}[said['Training Data']])


def test_no_weights_and_no_results_are_claimed():
    for model in MODELS.values():
        assert model['Weights'] == [''] and 'Results' not in model


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_the_fused_classifier_costs_what_is_said(name):
    said = CLASSIFIERS[name]['Metadata']
    with torch.device('meta'):  # no time for values of weights
        model = mmpretrain.get_model(name, backbone=dict(deploy=True)).to_empty(device='cpu').eval()
    size = 32 if said['Training Data'] == 'CIFAR-10' else 224
    counter = FlopAnalyzer(model, torch.zeros(1, 3, size, size)).uncalled_modules_warnings(False)
    assert said['FLOPs'] == counter.total()
    assert said['Parameters'] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('arch', ['A0', 'A1', 'A2', 'B1', 'B2', 'B3'])
def test_that_is_what_mmpretrain_says_of_repvgg(arch):
    repvgg = mmpretrain.ModelHub.get(f'repvgg-{arch}_8xb32_in1k')
    said = CLASSIFIERS[f'odbb_{arch.lower()}_imagenet']['Metadata']
    assert said['Parameters'] == repvgg.metadata.parameters
    assert said['FLOPs'] == repvgg.metadata.flops + 1000 * repvgg.config.model.head.in_channels


@pytest.mark.parametrize('name', DETECTORS)
def test_the_fused_detector_has_so_many_parameters(name):
    registry = pytest.importorskip('mmdet.registry')
    cfg = Config.fromfile(ROOT / DETECTORS[name]['Config'])
    cfg.model.backbone.update(deploy=True, genotype=None, init_cfg=None)
    init_default_scope('mmdet')
    with torch.device('meta'):
        model = registry.MODELS.build(cfg.model)
    assert DETECTORS[name]['Metadata']['Parameters'] == sum(p.numel() for p in model.parameters())


def test_mmpretrain_lists_and_builds_them():
    assert {*CLASSIFIERS} <= {*mmpretrain.list_models()}
    assert mmpretrain.list_models('odbb') == sorted(name for name in CLASSIFIERS if name.startswith('odbb'))
    with pytest.warns(UserWarning, match='Unable to find pre-defined checkpoint'):
        model = mmpretrain.get_model('odbb_a0_imagenet', pretrained=True)
    assert type(model.backbone).__name__ == 'ODBBBackbone'


def test_they_are_registered_once_and_only_with_their_configs(monkeypatch, tmp_path):
    hub: dict = {}
    monkeypatch.setattr(mmpretrain.ModelHub, '_models_dict', hub)
    with monkeypatch.context() as bare:
        bare.setattr(model_hub, '__file__', str(tmp_path / 'repnas_mm' / 'model_hub.py'))
        model_hub.register_models()
    assert not hub
    for _ in range(2):  # as a second import would; mmpretrain raises ValueError for a name that it knows
        model_hub.register_models()
    assert {*hub} == {*CLASSIFIERS}


def test_other_entries_stay_as_they_are(monkeypatch):
    other = SimpleNamespace(weights=[''])
    hub = dict(other=other)
    monkeypatch.setattr(mmpretrain.ModelHub, '_models_dict', hub)
    model_hub.register_models()
    assert other.weights == [''] and all(hub[name].weights is None for name in CLASSIFIERS)


def test_a_list_of_models_that_raises_is_warned_about(monkeypatch):
    hub: dict = {next(iter(CLASSIFIERS)): SimpleNamespace(filepath='of somebody else')}
    monkeypatch.setattr(mmpretrain.ModelHub, '_models_dict', hub)
    monkeypatch.setattr(mmpretrain.ModelHub, 'has', lambda name: False)
    with pytest.warns(
        UserWarning, match="mmpretrain's list of models does not take those of repnas_mm: The model name"
    ):
        model_hub.register_models()


@pytest.mark.parametrize('collection, models', [('odbb', CLASSIFIERS), ('centernet-odbb', DETECTORS)])
def test_mim_search_prints_them(collection, models):
    shown = mim('search', 'repnas_mm', '--model', collection, '--field', 'parameters', 'config')
    for name, model in models.items():
        assert f'config id: {name}\n' in shown and str(model['Metadata']['Parameters']) in shown


def test_mim_download_writes_the_config(tmp_path):
    mim('download', 'repnas_mm', '--config', 'odbb_a0_imagenet', '--dest', tmp_path)
    written = Config.fromfile(tmp_path / 'odbb_a0_imagenet.py')
    assert written.model.to_dict() == Config.fromfile(ROOT / 'configs' / 'odbb_a0_imagenet.py').model.to_dict()
