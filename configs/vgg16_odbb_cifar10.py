# VGG-16 on CIFAR-10 (paper 4.1, Tables 1 and 3): 600 epochs, batch 128, lr 0.1 on a cosine, weight decay 1e-4.
# The paper gives no C for VGG-16; 52 is what a DBB network has, four branches a layer.
_base_ = [
    'mmpretrain::_base_/datasets/cifar10_bs16.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    'mmpretrain::_base_/default_runtime.py',
    './_base_/repnas.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(type='ODBBBackbone', arch='VGG16', share_weights=True),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=512, loss=dict(type='CrossEntropyLoss')),
)

train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)

param_scheduler = dict(
    _delete_=True, type='CosineAnnealingLR', T_max=600, end=600, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(max_epochs=600)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))

custom_hooks = [dict(type='RepNASHook', strategy='sample', num_branches=52), dict(type='FuseHook'), *_base_.run_hooks]
