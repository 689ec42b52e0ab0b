"""Imported by configs of the distributed tests: a float64 training whose BN sees the batches of all ranks.

Stock SyncBN does not run on the CPU.
"""

from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.dist import all_gather, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from mmpretrain.models import ClsDataPreprocessor
from torch import nn
from torch.distributed.nn.functional import all_reduce

from repnas_mm.search import find_blocks

torch.set_default_dtype(torch.float64)


@MODELS.register_module()
class AllReduceBN(nn.BatchNorm2d):
    """BN whose moments are those of all ranks."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        count = x.numel() // x.shape[1] * get_world_size()
        mean = self._sum(x) / count
        var = self._sum((x - mean) ** 2) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean.flatten(), self.momentum)
            self.running_var.lerp_(var.flatten() * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        gamma, beta = self.weight[:, None, None], self.bias[:, None, None]
        return gamma * (x - mean) / (var + self.eps).sqrt() + beta

    @staticmethod
    def _sum(x):
        total = x.sum((0, 2, 3), keepdim=True)
        return all_reduce(total) if get_world_size() > 1 else total


@MODELS.register_module()
class Float64Preprocessor(ClsDataPreprocessor):
    """Images in float64, between 0 and 1."""

    def forward(self, data, training=False):
        data = self.cast_data(data)
        return dict(inputs=torch.stack(list(data['inputs'])).double() / 255, data_samples=data['data_samples'])


@HOOKS.register_module()
class SameEverywhere(Hook):
    """Stops if the ranks differ in their branches, α or weights."""

    priority = 'VERY_LOW'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        blocks = find_blocks(runner.model.module).values()
        mine = torch.cat(
            [torch.cat([b.active.to(b.alpha), *(p.detach().flatten() for p in b.parameters())]) for b in blocks]
        )
        others = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(others, mine)
        if not all(torch.equal(mine, other) for other in others):
            raise AssertionError(f'The ranks differ in iteration {runner.iter}.')


@HOOKS.register_module()
class KeepValStatistics(Hook):
    """Stops if the ranks validate with different BN statistics; keeps those of the first validation."""

    def before_val_epoch(self, runner):
        model = runner.model.module if get_world_size() > 1 else runner.model
        path = Path(runner.work_dir) / 'val_statistics.pth'

        def look(backbone, _):
            if backbone.training:
                return
            norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
            mine = torch.cat([moment for norm in norms for moment in (norm.running_mean, norm.running_var)])
            if not all(torch.equal(mine, other) for other in all_gather(mine)):
                raise AssertionError(f'The ranks differ in the validation of epoch {runner.epoch}.')
            if is_main_process() and not path.exists():
                torch.save(mine, path)

        self.handle = model.backbone.register_forward_pre_hook(look)

    def after_val_epoch(self, runner, metrics=None):
        self.handle.remove()
