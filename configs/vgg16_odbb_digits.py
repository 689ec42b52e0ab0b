# VGG-16 on scikit-learn's digits at 1/16 of the width: all of the paper's experiments in minutes.
_base_ = './vgg16_odbb_fashion.py'

model = dict(data_preprocessor=dict(mean=[80.0], std=[96.0]))

train_pipeline = [
    dict(type='Resize', scale=28),
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='Resize', scale=28),
    dict(type='CenterCrop', crop_size=32, auto_pad=True),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(_delete_=True, type='Digits', split='train', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(_delete_=True, type='Digits', split='test', pipeline=test_pipeline))
test_dataloader = val_dataloader

param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, end=4, by_epoch=True, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=12, begin=4, end=16, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=16, val_interval=4)
default_hooks = dict(checkpoint=dict(interval=4))

custom_hooks = [
    dict(
        type='RepNASHook',
        strategy='sample',
        num_branches=52,
        frozen=12,
        alpha_optimizer=dict(type='Adam', lr=0.02, betas=(0.5, 0.999)),
    ),
    dict(type='FuseHook'),
    *_base_.run_hooks,
]
