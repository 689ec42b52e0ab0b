"""Checkpoints: only weights are ever loaded, every key must fit, and stock runs resume under safe loading."""

import os
import pickle
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from fresh_process import run_python
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

from repnas_mm.engine import RepNASHook
from repnas_mm.engine.checkpoint import build_model, deploy_config, load_file, subnet_config
from repnas_mm.engine.log_history import restore_history
from repnas_mm.models import ODBBBackbone
from repnas_mm.search import Genotype, find_blocks


class Malicious:
    """Runs a command when unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Reaching:
    """Asks ``getattr`` for something that is not a statistic."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


@pytest.mark.parametrize('payload', [lambda p: Malicious(f'touch {p}'), lambda p: Reaching()])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, payload):
    trap = tmp_path / 'trap'
    torch.save(dict(state_dict={}, extra=payload(trap)), tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match=r"Checkpoint '.*bad.pth' is damaged or holds more than weights"):
        load_file(tmp_path / 'bad.pth')
    assert not trap.exists()


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


def build_state(cfg):
    from mmpretrain.registry import MODELS

    return MODELS.build(deepcopy(cfg.model)).state_dict()


def test_the_configs_of_a_resumed_run_start_nothing(small_cfg, run):
    run(small_cfg, stop_after=6)
    folder = Path(run(small_cfg, resume=True).work_dir)
    for name in ('subnet', 'fused'):
        cfg = Config.fromfile(folder / f'{name}.py')
        assert cfg.resume is False and cfg.load_from is None
