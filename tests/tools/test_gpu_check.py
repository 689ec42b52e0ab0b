"""tools/gpu_check.py: its ways to train exist, time is kept, and a failure is a row and not the end."""

import argparse
import runpy
import subprocess
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction

from gpu import costs, trainings
from measuring.reports import Report
from repnas_mm.engine import RepNASHook

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def gpu_check():
    return runpy.run_path(str(ROOT / 'tools' / 'gpu_check.py'))


@pytest.fixture
def trained(monkeypatch):
    """Commands that were run, each of which ends with what is in ``says``."""
    commands, says = [], dict(returncode=0, stdout='', stderr='')

    def run(command, **_):
        commands.append(command)
        return argparse.Namespace(**says)

    monkeypatch.setattr(subprocess, 'run', run)
    return commands, says


@pytest.mark.parametrize('way', trainings.WAYS)
def test_each_way_is_a_config_that_searches(way, trained, tmp_path):
    commands, _ = trained
    trainings._row(way, ['python'], trainings.WAYS[way], tmp_path, 20)
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    options = commands[0][commands[0].index('--cfg-options') :]
    cfg = Config.fromfile(trainings.CONFIG)
    cfg.merge_from_dict(parser.parse_args(options).cfg_options)
    settings = cfg.custom_hooks[0].to_dict()
    assert settings.pop('type') == 'RepNASHook'
    hook = RepNASHook(**settings)
    assert hook.strategy.phases.frozen_of(cfg.train_cfg.max_epochs) == (0 if way == 'Algorithm 1' else 16)
    assert cfg.optim_wrapper.get('type', 'OptimWrapper') == ('AmpOptimWrapper' if 'AMP' in way else 'OptimWrapper')
    assert bool(cfg.get('compile')) == (way == 'torch.compile')


def test_what_a_training_leaves_is_its_row(trained, tmp_path):
    _, says = trained
    says['stderr'] = (
        'Epoch(val) [5][1/1]  accuracy/top1: 50.0000\nEpoch(val) [20][1/1]  accuracy/top1: 97.5000  time: 0.1\n'
        'Fused model (differs from the unfused by 3.9e-07 of its largest output) saved to x\n'
    )
    row = trainings._row('with_cp', ['python'], (), tmp_path, 20)
    assert (row['result'], row['top-1 (%)'], row['largest difference']) == ('passed', 97.5, 3.9e-7)


def test_a_failure_is_named_and_the_others_go_on(trained, tmp_path, monkeypatch):
    commands, says = trained
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    says.update(returncode=1, stderr='Traceback\n  File "x"\ntorch.OutOfMemoryError: CUDA out of memory.\nend\n')
    report = trainings.run(tmp_path, 2, compiled=False)
    results = {row['training']: row['result'] for row in report.rows}
    assert results['float32'] == 'failed: torch.OutOfMemoryError: CUDA out of memory.'
    assert len(commands) == sum(result.startswith('failed') for result in results.values()) >= 3
    assert 'torch.compile' not in results
    assert results[trainings.TWO_GPUS] == 'not run: it takes two GPUs'


def test_no_job_is_started_that_would_end_too_late(gpu_check, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, 'monotonic', lambda: now[0])

    def job():
        now[0] += 40
        return [dict(at=now[0])]

    ledger = gpu_check['Ledger'](100)
    assert ledger.run([('a', job), ('b', job), ('c', job)]) == [dict(at=40.0), dict(at=80.0)]
    assert ledger.left_out == ['c']


def test_costs_come_in_every_precision():
    names = [name for name, _ in costs.jobs(('A0', 'B1'), (64, 128), 224, device='cuda')]
    assert len(names) == len(set(names)) == 13
    for name in ('cost: A0, 64 × 224², bfloat16', 'cost: B1, 128 × 224², TF32', 'cost: A0, 64 × 224², float32'):
        assert name in names


def test_everything_is_written(gpu_check, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(trainings, 'run', lambda *_, **__: Report('trainings', 'Trainings', [dict(training='x')]))
    monkeypatch.setattr(costs, 'MEASURES', {name: lambda *_: [dict(what='w', setting='s')] for name in costs.MEASURES})
    monkeypatch.setattr(gpu_check['reproduce'], 'main', called.append)
    gpu_check['main'](['--tiny', '--out', str(tmp_path)])
    assert called == [['table2', '--preset', 'digits', '--out', str(tmp_path)]]
    assert {path.name for path in tmp_path.glob('*.md')} == {'trainings.md', 'cost.md', 'compiled.md'}
    page = (tmp_path / 'cost.md').read_text()
    assert 'python tools/gpu_check.py --tiny' in page and '| w | s | bfloat16 |' in page and 'Measured on' in page


def test_a_machine_without_a_gpu_is_told_so(gpu_check, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(RuntimeError, match=r'finds no GPU on this machine; --tiny runs the same small, on the CPU\.'):
        gpu_check['main'](['--out', str(tmp_path)])
