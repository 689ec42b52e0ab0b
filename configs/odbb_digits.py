# A search on scikit-learn's digits with a network of nine layers, about a minute on two CPU cores.
_base_ = ['mmpretrain::_base_/default_runtime.py', './_base_/repnas.py']

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[80.0], std=[96.0], to_rgb=False, num_classes=10),
    backbone=dict(
        type='ODBBBackbone',
        arch=dict(num_blocks=[2, 3, 3], width_factor=[1, 1, 1], strides=[1, 2, 2]),
        in_channels=1,
        base_channels=16,
        share_weights=False,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64, loss=dict(type='CrossEntropyLoss')),
)

train_pipeline = [
    dict(type='Resize', scale=16),
    dict(type='RandomCrop', crop_size=16, padding=1),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='Resize', scale=16), dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type='Digits', split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=360,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type='Digits', split='test', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = dict(type='CosineAnnealingLR', T_max=60, end=60, by_epoch=True, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=60, val_interval=5)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(
    logger=dict(interval=23),
    checkpoint=dict(interval=10, max_keep_ckpts=2),
)
randomness = dict(seed=0)

# Five kinds of branches train for 12 of 60 epochs; then as many branches stay as a hand-made RepVGG of this shape has.
custom_hooks = [
    dict(type='RepNASHook', strategy='shrink', num_branches=24, frozen=48),
    dict(type='FuseHook'),
    *_base_.run_hooks,
]
