"""A search small enough to run a whole training in a second."""

from pathlib import Path

from mmengine.config import Config, ConfigDict

from repnas_mm.utils.cli import set_loader_defaults

CONFIG = Path(__file__).resolve().parents[1] / 'configs' / 'odbb_digits.py'


def small_search(work_dir: Path) -> Config:
    """Algorithm 1 on the digits: 4 shared blocks of 25 candidates, 3 iterations an epoch, 6 epochs, 2 of each phase."""
    cfg = Config.fromfile(CONFIG)
    set_loader_defaults(cfg)
    cfg.model.backbone.arch = dict(num_blocks=[1, 1, 1], width_factor=[1, 1, 1], strides=[1, 2, 2])
    cfg.model.backbone.base_channels = 4
    cfg.model.backbone.share_weights = True
    cfg.model.head.in_channels = 16
    for loader, indices in ((cfg.train_dataloader, 48), (cfg.val_dataloader, 20), (cfg.test_dataloader, 20)):
        loader.batch_size = 16
        loader.dataset.indices = indices
    cfg.train_cfg = dict(by_epoch=True, max_epochs=6, val_interval=2)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    cfg.default_hooks.logger.interval = 3
    cfg.optim_wrapper.optimizer = ConfigDict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4)
    cfg.param_scheduler = dict(type='CosineAnnealingLR', T_max=60, end=60, by_epoch=True, convert_to_iter_based=True)
    cfg.custom_hooks[0] = ConfigDict(
        type='RepNASHook',
        strategy='sample',
        num_branches=10,
        warmup=2,
        frozen=2,
        alpha_optimizer=dict(type='Adam', lr=0.02, betas=(0.5, 0.999)),
    )
    cfg.work_dir = str(work_dir)
    return cfg


def in_iterations(cfg: Config) -> Config:
    """Turn a config into one of an iter-based loop of 18 iterations, 6 of each phase, saved every 2."""
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=18, val_interval=4)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.param_scheduler = dict(type='CosineAnnealingLR', T_max=18, by_epoch=False)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=2, by_epoch=False)
    cfg.log_processor = dict(by_epoch=False)
    cfg.custom_hooks[0].update(warmup=6, frozen=6)
    return cfg
