# A network so deep and narrow, 40 layers of 16 to 64 channels, that its branches decide what it learns, on 16,000
# images of Fashion-MNIST. Five kinds of branches train for one of 6 epochs; then about two a block stay. First:
# get Fashion-MNIST, see docs/reproduce.md.
_base_ = './vgg16_odbb_fashion.py'

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            num_blocks=[4, 10, 24, 1],
            width_factor=[1, 0.75, 0.5, 0.5],
            strides=[2, 1, 2, 1],
        ),
        base_channels=16,
    ),
    head=dict(in_channels=64),
)

train_pipeline = [
    dict(type='RandomCrop', crop_size=28, padding=2),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=0.1))
auto_scale_lr = dict(base_batch_size=64)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=1, by_epoch=True, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=5, begin=1, end=6, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=6, val_interval=6)

custom_hooks = [
    dict(type='RepNASHook', strategy='shrink', num_branches=76, frozen=5),
    dict(type='FuseHook'),
    *_base_.run_hooks,
]
