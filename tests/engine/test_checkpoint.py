"""Checkpoints: only weights are ever loaded, every key must fit, and stock runs resume under safe loading."""

import os
import pickle
from copy import deepcopy
from decimal import Decimal
from enum import Enum
from http import HTTPStatus
from pathlib import Path, PurePath, PureWindowsPath

import numpy as np
import pytest
import torch
from fresh_process import run_python
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleParamScheduler

from repnas_mm.datasets import Digits
from repnas_mm.engine import RepNASHook
from repnas_mm.engine.checkpoint import build_model, deploy_config, load_file, subnet_config
from repnas_mm.engine.log_history import restore_history
from repnas_mm.engine.plain import plain
from repnas_mm.models import ODBBBackbone
from repnas_mm.search import Genotype, find_blocks


class Malicious:
    """Runs a command when unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Reaching:
    """Asks ``getattr`` for something that is neither a statistic nor a scheduler's curve."""

    def __init__(self, owner, name):
        self.asked = owner, name

    def __reduce__(self):
        return getattr, self.asked


class Record:
    """An array of records, whose pickled flags can turn bytes into pointers."""

    def __reduce__(self):
        return np.zeros(2, [('a', 'i4')]).__reduce__()


PAYLOADS = dict(
    code=lambda p: Malicious(f'touch {p}'),
    statistic=lambda p: Reaching(HistoryBuffer, '__init__'),
    curve=lambda p: Reaching(OneCycleParamScheduler, 'build_iter_from_epoch'),
    objects=lambda p: np.array([Path(p)], dtype=object),
    records=lambda p: Record(),
)


@pytest.mark.parametrize('payload', PAYLOADS.values(), ids=PAYLOADS)
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, payload):
    trap = tmp_path / 'trap'
    torch.save(dict(state_dict={}, extra=payload(trap)), tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match=r"Checkpoint '.*bad.pth' is damaged or holds more than weights"):
        load_file(tmp_path / 'bad.pth')
    assert not trap.exists()


REASONS = {
    'numpy.dtypes.ObjectDType': np.array([None]),
    'GLOBAL decimal.Decimal was not an allowed global': Decimal(1),
    'may not look up': Reaching(HistoryBuffer, '__init__'),
}


@pytest.mark.parametrize('reason', REASONS)
def test_a_refusal_quotes_the_reason_of_torch_in_one_sentence(tmp_path, reason):
    torch.save(dict(state_dict={}, extra=REASONS[reason]), tmp_path / 'odd.pth')
    with pytest.raises(ValueError, match=reason) as e:
        load_file(tmp_path / 'odd.pth')
    assert '\n' not in str(e.value) and 'weights_only' not in str(e.value) and str(e.value).count('. ') == 0


class Kind(Enum):
    DAY = 'day'


#: What stock MMEngine may write, and the same in plain Python
VALUES = {
    **{
        f'array of {kind}': (np.array([0, 1], kind), np.array([0, 1], kind).tolist())
        for kind in ('bool', 'int8', 'uint8', 'uint64', 'float16', 'float32', '>f4', 'complex64')
    },
    'array of strings': (np.array(['cat', 'no']), ['cat', 'no']),
    'array of bytes': (np.array([b'cat']), [b'cat']),
    'array of long doubles': (np.array([0.5], np.longdouble), [0.5]),
    'array of dates': (np.array(['2020-01-01'], 'datetime64[D]'), ['2020-01-01']),
    'string': (np.str_('cat'), 'cat'),
    'number': (np.float16(0.5), 0.5),
    'long double': (np.longdouble(0.5), 0.5),
    'count': (np.uint8(3), 3),
    'path': (Path('data/train'), 'data/train'),
    'windows path': (PureWindowsPath('data'), 'data'),
    'config': (ConfigDict(a=ConfigDict(b=[1])), dict(a=dict(b=[1]))),
    'frozenset': (frozenset([1]), (1,)),
    'range': (range(2), 'range(0, 2)'),
}
#: What the data set of a run may hold besides
OBJECTS = {
    'enum': (Kind.DAY, 'day'),
    'enum of integers': (HTTPStatus.OK, 200),
    'object array': (np.array([np.int64(1), None]), [1, None]),
    'decimal': (Decimal('0.5'), '0.5'),
    'function in a dict': (dict(a=1, f=len), dict(a=1)),
}


def typed(value):
    """``value`` with the type of every part."""
    if isinstance(value, dict):
        return dict, [(typed(key), typed(item)) for key, item in value.items()]
    return type(value), [typed(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize('kind', VALUES)
def test_what_stock_mmengine_writes_is_read(tmp_path, kind):
    value = VALUES[kind][0]
    torch.save(dict(state_dict={}, meta=dict(dataset_meta=dict(value=value))), tmp_path / 'stock.pth')
    read = load_file(tmp_path / 'stock.pth')['meta']['dataset_meta']['value']
    np.testing.assert_array_equal(read, PurePath(value) if isinstance(value, PurePath) else value)


@pytest.mark.parametrize('kind', {**VALUES, **OBJECTS})
def test_what_we_write_is_plain(kind):
    value, expected = {**VALUES, **OBJECTS}[kind]
    assert typed(plain(value)) == typed(expected)
    assert typed(plain({np.int64(1): (value, [value])})) == typed({1: (expected, [expected])})


def test_plain_data_and_tensors_stay_the_same():
    weight = torch.nn.Parameter(torch.ones(1))
    data = dict(a=[1, 2.5, None, True, 'a', b'b', 1j], b=(torch.float16, torch.Size([1]), torch.device('cpu')))
    assert typed(plain(data)) == typed(data)
    assert plain([weight])[0] is weight


METAINFO = dict(
    classes=np.array(['a', 'b']), palette=np.zeros((2, 3), np.uint8), sigmas=np.ones(2, np.float16), root=Path('data')
)


@pytest.fixture
def odd_cfg(small_cfg, monkeypatch):
    """A run whose data set and scheduler hold what stock MMEngine pickles as objects."""
    monkeypatch.setattr(Digits, 'METAINFO', METAINFO)
    small_cfg.param_scheduler = dict(
        type='OneCycleLR', eta_max=0.1, total_steps=6, by_epoch=True, convert_to_iter_based=True
    )
    return small_cfg


def test_every_file_of_a_run_opens_in_stock_tools(odd_cfg, run):
    folder = Path(run(odd_cfg).work_dir)
    for name in ('epoch_6.pth', 'subnet.pth', 'fused.pth'):
        # torch's default since 2.6, as stock tools load
        meta = torch.load(folder / name, weights_only=True)['meta']['dataset_meta']
        assert meta['classes'] == ['a', 'b'] and meta['palette'] == [[0, 0, 0]] * 2 and meta['root'] == 'data'


@pytest.mark.parametrize('hooks', [[], ['SafeLoadHook']], ids=['stock checkpoint', 'ours'])
def test_a_resume_goes_on_with_the_state_of_its_scheduler(odd_cfg, run, hooks, caplog):
    odd_cfg.model.backbone.genotype = 'plain'
    odd_cfg.custom_hooks = [dict(type=hook) for hook in hooks]
    whole = deepcopy(odd_cfg)
    whole.work_dir += '_whole'
    expected = run(whole).message_hub.get_scalar('train/lr').data[0][-9:]
    run(odd_cfg, stop_after=9)
    odd_cfg.custom_hooks = [dict(type='SafeLoadHook')]
    resumed = run(odd_cfg, resume=True)
    assert resumed.message_hub.get_scalar('train/lr').data[0][-9:] == pytest.approx(expected)
    assert 'dataset metainfo' not in caplog.text


@pytest.mark.parametrize('content', [b'', b'not a checkpoint', pickle.dumps([1, 2])])
def test_other_files_are_named(tmp_path, content):
    path = tmp_path / 'other.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Checkpoint '.*other.pth'"):
        load_file(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'none\.pth'):
        load_file(tmp_path / 'none.pth')


def test_a_history_buffer_survives_safe_loading(tmp_path):
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    torch.save(dict(state_dict={}, history=history), tmp_path / 'history.pth')
    loaded = load_file(tmp_path / 'history.pth')['history']
    assert loaded.mean() == 2.0
    assert loaded.statistics('max') == 3.0


def test_checkpoints_of_our_hooks_load_safely_without_any_help_and_give_their_history_back(small_cfg, run):
    small_cfg.model.backbone.genotype = 'plain'
    small_cfg.custom_hooks = [dict(type='FuseHook')]
    whole = run(small_cfg)
    losses = [array.tolist() for array in whole.message_hub.get_scalar('train/loss').data]
    checkpoint = torch.load(Path(whole.work_dir) / 'epoch_6.pth', weights_only=True)
    restore_history(checkpoint['message_hub'])
    assert [a.tolist() for a in checkpoint['message_hub']['log_scalars']['train/loss'].data] == losses


def test_the_package_and_a_load_allow_nothing_for_good(tmp_path):
    torch.save(dict(state_dict={}, history=HistoryBuffer([1.0], [1])), tmp_path / 'history.pth')
    code = (
        'import numpy, torch, repnas_mm\n'
        'from torch.serialization import add_safe_globals, get_safe_globals\n'
        'from repnas_mm.engine.checkpoint import load_file\n'
        'from repnas_mm.engine.log_history import _pickled\n'
        'assert not {*_pickled()} & {*get_safe_globals()}\n'
        'add_safe_globals([numpy.ndarray])\n'
        f"load_file('{tmp_path}/history.pth')\n"
        'assert {*_pickled()} & {*get_safe_globals()} == {numpy.ndarray}\n'
    )
    assert run_python('-c', code, cwd=tmp_path) == (0, '')


@pytest.mark.parametrize('hook', ['ExactResumeHook', 'FuseHook', 'SafeLoadHook'])
def test_a_stock_run_resumes_on_current_torch(small_cfg, run, hook):
    small_cfg.model.backbone.genotype = 'plain'
    small_cfg.custom_hooks = [dict(type=hook)]
    run(small_cfg, stop_after=6)
    assert run(small_cfg, resume=True).iter == 18
    assert HistoryBuffer not in torch.serialization.get_safe_globals()


def test_search_subnet_and_fused_checkpoints_load_with_the_searchs_config(small_cfg, run):
    folder = Path(run(small_cfg).work_dir)
    for name, form in (('epoch_6.pth', 'search'), ('subnet.pth', 'subnet'), ('fused.pth', 'deploy')):
        model = build_model(small_cfg, load_file(folder / name))
        assert all(f'form={form}' in repr(block) for block in find_blocks(model).values())


def test_the_written_configs_load_what_is_beside_them(small_cfg, run):
    folder = Path(run(small_cfg).work_dir)
    for name in ('subnet', 'fused'):
        cfg = Config.fromfile(folder / f'{name}.py')
        assert not [hook for hook in cfg.custom_hooks if hook.type == 'RepNASHook']
        model = build_model(cfg, load_file(folder / f'{name}.pth'))
        assert sum(block.deploy for block in find_blocks(model).values()) == (4 if name == 'fused' else 0)


def test_a_checkpoint_of_another_arch_is_refused(small_cfg, run):
    folder = Path(run(small_cfg, stop_after=3).work_dir)
    checkpoint = load_file(folder / 'epoch_1.pth')
    small_cfg.model.backbone.base_channels = 8
    with pytest.raises(ValueError, match='does not fit the model of the config'):
        build_model(small_cfg, checkpoint)


def test_configs_are_copied_not_changed(small_cfg):
    before = small_cfg.pretty_text
    model = build_model(small_cfg, dict(state_dict=build_state(small_cfg)))
    genotype = Genotype.from_model(model)
    assert subnet_config(small_cfg, genotype).model.backbone.genotype['num_branches'] == 25
    assert deploy_config(small_cfg).model.backbone.deploy
    assert small_cfg.pretty_text == before


def test_configs_that_name_classes_are_edited_too(small_cfg):
    small_cfg.model.backbone.type = ODBBBackbone
    small_cfg.custom_hooks[0].type = RepNASHook
    fused = deploy_config(small_cfg)
    assert fused.model.backbone.deploy
    assert [hook.type for hook in fused.custom_hooks] == ['ExactResumeHook', 'CheckFiniteHook']


CONV, BASE = dict(type='ODBBConv2d'), dict(type='mmpretrain.ODBBBackbone', base=dict(type='FPN'))


@pytest.mark.parametrize(
    ('biases', 'biased'),
    [
        ([], ()),
        (['backbone.conv1'], ['backbone']),
        (['neck.0.conv', 'aux.0.conv'], ['neck', 'aux']),
        (['roi.mask.convs.0'], ['roi']),
        (['student.backbone.conv1'], ['backbone', 'neck', 'roi', 'aux']),
        (['head.conv'], ['backbone', 'neck', 'roi', 'aux']),
    ],
    ids=['none', 'conv_cfg', 'base and a list', 'nested', 'another network', 'a part without a setting'],
)
def test_only_the_parts_with_new_biases_keep_our_layers(biases, biased):
    parts = dict(
        backbone=dict(conv_cfg=CONV), neck=BASE, roi=dict(mask=dict(conv_cfg=CONV)), aux=[dict(conv_cfg=CONV)], head={}
    )
    cfg = deploy_config(Config(dict(custom_imports=dict(imports=['repnas_mm']), model=deepcopy(parts))), biases)
    assert {part for part in parts if 'ODBB' in str(cfg.model[part])} == {*biased}
    assert str(cfg.model).count("'deploy': True") == len(biased)
    assert ('repnas_mm' in cfg.custom_imports.imports) == bool(biased)
    assert list(cfg.model) == list(parts)


def test_a_subnet_config_has_for_each_base_the_branches_of_its_own_blocks():
    """By the place in the config: the blocks of one layer may have the names that those of another have."""
    genotype = Genotype({'neck.0.conv': ('kxk',), 'neck.1.conv': ('kxk', '1x1'), 'head.inner.conv': ('1xk',)})
    base = dict(type='mmpretrain.ODBBBackbone', base=dict(type='FPN'))
    model = subnet_config(Config(dict(model=dict(neck=[base, base], head=dict(inner=base)))), genotype).model
    found = [node.genotype['blocks'] for node in (*model.neck, model.head.inner)]
    assert found == [dict(conv=['kxk']), dict(conv=['1x1', 'kxk']), dict(conv=['1xk'])]
    student = subnet_config(Config(dict(model=dict(detector=dict(neck=base)))), genotype).model.detector.neck
    assert student.genotype['blocks'] == genotype.to_dict()['blocks']


def build_state(cfg):
    from mmpretrain.registry import MODELS

    return MODELS.build(deepcopy(cfg.model)).state_dict()


def test_the_configs_of_a_resumed_run_start_nothing(small_cfg, run):
    run(small_cfg, stop_after=6)
    folder = Path(run(small_cfg, resume=True).work_dir)
    for name in ('subnet', 'fused'):
        cfg = Config.fromfile(folder / f'{name}.py')
        assert cfg.resume is False and cfg.load_from is None
