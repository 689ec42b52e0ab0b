"""Several ranks on one machine (gloo): the same branches everywhere, and one sentence where DDP would hang."""

import subprocess
import sys
from pathlib import Path

import pytest

from repnas_mm.search import Genotype

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from repnas_mm.search import find_blocks

dist.init_process_group('gloo')
cfg = Config.fromfile(sys.argv[1])
cfg.launcher = 'pytorch'
find = sys.argv[2] == 'True'
cfg.find_unused_parameters = find
cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, find_unused_parameters=find)


class SameEverywhere(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        blocks = find_blocks(runner.model.module).values()
        mine = torch.cat([torch.cat([b.active.float(), b.alpha.detach(), b.weight.detach().flatten()]) for b in blocks])
        others = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(others, mine)
        assert all(torch.equal(mine, other) for other in others)


runner = Runner.from_cfg(cfg)
runner.register_hook(SameEverywhere(), 'VERY_LOW')
runner.train()
"""


def train(cfg, folder: Path, find_unused_parameters: bool) -> subprocess.CompletedProcess:
    cfg.dump(folder / 'config.py')
    (folder / 'script.py').write_text(SCRIPT)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    command += [str(folder / 'script.py'), str(folder / 'config.py'), str(find_unused_parameters)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture
def cfg(small_cfg):
    small_cfg.train_dataloader.batch_size = 8
    small_cfg.custom_hooks[0].update(warmup=1, frozen=0)
    return small_cfg


def test_all_ranks_keep_the_same_branches_and_weights(cfg, tmp_path):
    done = train(cfg, tmp_path, True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert Genotype.load(Path(cfg.work_dir) / 'genotype.json').num_branches == 10
    assert (Path(cfg.work_dir) / 'fused.pth').exists()


def test_without_find_unused_parameters_the_user_is_told(cfg, tmp_path):
    done = train(cfg, tmp_path, False)
    assert done.returncode != 0
    assert 'set find_unused_parameters=True at the top of the config' in done.stderr
