"""Several ranks on one machine (gloo): the same branches everywhere, and the run of one process on all their images."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel

from repnas_mm.engine.checkpoint import load_file
from repnas_mm.search import Genotype

ROOT = Path(__file__).resolve().parents[2]


def train(cfg, work_dir: Path, ranks: int) -> subprocess.CompletedProcess:
    """tools/train.py as torchrun starts it, or by itself."""
    config = work_dir.with_suffix('.py')
    cfg.dump(config)
    tool = [str(ROOT / 'tools' / 'train.py'), str(config), '--work-dir', str(work_dir)]
    if ranks > 1:
        run = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={ranks}']
        tool = [*run, *tool, '--launcher', 'pytorch']
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    env = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}
    return subprocess.run([sys.executable, *tool], env=env, capture_output=True, text=True, timeout=500)


@pytest.fixture
def cfg(small_cfg):
    small_cfg.train_dataloader.batch_size = 8
    small_cfg.custom_hooks[0].update(warmup=1, frozen=0)
    del small_cfg._cfg_dict['work_dir']  # given on the command line
    return small_cfg


def train_both(cfg, tmp_path: Path):
    """Checkpoints after 4 epochs on two ranks, which must stay equal, and in one process on all their images."""
    cfg.train_cfg.update(max_epochs=4, val_interval=2)
    cfg.custom_hooks += [dict(type='SameEverywhere')]
    done = train(cfg, tmp_path / 'ranks', 2)
    assert done.returncode == 0, done.stderr[-6000:]
    cfg.custom_hooks.pop()
    cfg.train_dataloader.batch_size = 16
    alone = train(cfg, tmp_path / 'alone', 1)
    assert alone.returncode == 0, alone.stderr[-6000:]
    return [load_file(tmp_path / name / 'epoch_4.pth') for name in ('ranks', 'alone')]


def without_rounding_and_chance(cfg) -> None:
    """Train in float64, with BNs that see the batches of all ranks and without augmentation."""
    cfg.custom_imports.imports += ['float64_ranks']
    cfg.model.data_preprocessor = dict(type='Float64Preprocessor')
    cfg.model.backbone.norm_cfg = dict(type='AllReduceBN')
    cfg.train_dataloader.dataset.pipeline = [cfg.train_dataloader.dataset.pipeline[i] for i in (0, -1)]


def test_two_ranks_train_as_one_process_on_all_their_images(cfg, tmp_path):
    without_rounding_and_chance(cfg)
    cfg.custom_hooks[0].update(frozen=1)
    cfg.custom_hooks += [dict(type='KeepValStatistics')]
    first, second = (checkpoint['state_dict'] for checkpoint in train_both(cfg, tmp_path))
    assert first.keys() == second.keys() and first['backbone.stage_1.0.weight'].dtype == torch.float64
    for name in first:
        torch.testing.assert_close(
            first[name], second[name], rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f'{name}: {m}'
        )
    genotypes = [Genotype.load(tmp_path / name / 'genotype.json') for name in ('ranks', 'alone')]
    assert dict(genotypes[0]) == dict(genotypes[1])
    statistics = [torch.load(tmp_path / name / 'val_statistics.pth') for name in ('ranks', 'alone')]
    torch.testing.assert_close(*statistics, rtol=1e-9, atol=1e-12)


def test_two_ranks_cut_and_absorb_as_one_process_on_all_their_images(cfg, tmp_path):
    without_rounding_and_chance(cfg)
    cfg.model.backbone.share_weights = False
    del cfg.custom_hooks[0]['alpha_optimizer']
    cfg.custom_hooks[0].update(strategy='shrink', warmup=0, frozen=2)
    cfg.custom_hooks += [dict(type='EMAHook')]
    first, second = train_both(cfg, tmp_path)
    assert first['repnas']['genotype'] == second['repnas']['genotype']
    for part in ('state_dict', 'ema_state_dict'):
        for name, value in second[part].items():
            torch.testing.assert_close(first[part][name], value, rtol=1e-8, atol=1e-11)


def test_a_search_on_two_ranks_leaves_what_others_leave(cfg, tmp_path):
    cfg.custom_imports.imports += ['float64_ranks']
    cfg.model.data_preprocessor = dict(type='Float64Preprocessor')
    cfg.custom_hooks += [dict(type='KeepValStatistics')]  # with a BN that sees its rank's images only
    done = train(cfg, tmp_path / 'run', 2)
    assert done.returncode == 0, done.stderr[-6000:]
    assert Genotype.load(tmp_path / 'run' / 'genotype.json').num_branches == 10
    assert (tmp_path / 'run' / 'fused.pth').exists()


def test_without_find_unused_parameters_the_user_is_told(small_cfg, run, tmp_path):
    class Wrap(Hook):
        priority = 1

        def before_run(self, runner):
            runner.model = MMDistributedDataParallel(runner.model)

    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/group', rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match='set find_unused_parameters=True at the top of the config'):
            run(small_cfg, Wrap())
    finally:
        torch.distributed.destroy_process_group()
