# VGG-16 on Fashion-MNIST at 1/16 of the width: Table 3 at a scale for two CPU cores. 16,000 of the 60,000 training
# images, 7 epochs. First: get Fashion-MNIST, see docs/reproduce.md.
_base_ = './vgg16_odbb_cifar10.py'

model = dict(
    data_preprocessor=dict(mean=[72.94], std=[90.02], to_rgb=False, num_classes=10),
    backbone=dict(in_channels=1, base_channels=4, share_weights=False),
    head=dict(in_channels=32),
)

# VGG-16 halves the image five times, so 28 pixels are padded to 32
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='CenterCrop', crop_size=32, auto_pad=True), dict(type='PackInputs')]
data = dict(type='FashionMNIST', data_root='data/fashion_mnist', download=False)
loader = dict(num_workers=0, persistent_workers=False)

train_dataloader = dict(
    batch_size=32,
    dataset=dict(_delete_=True, split='train', indices=16000, pipeline=train_pipeline, **data),
    **loader,
)
# the stock class reads the test files by test_mode, not by split
val_dataloader = dict(
    batch_size=250,
    dataset=dict(_delete_=True, split='test', test_mode=True, pipeline=test_pipeline, **data),
    **loader,
)
test_dataloader = val_dataloader

# The paper's lr at this batch size. So few steps need more care than 600 epochs do: the lr warms up, and gradients are
# clipped, as in the authors' script.
optim_wrapper = dict(optimizer=dict(lr=0.025), clip_grad=dict(max_norm=5))
auto_scale_lr = dict(base_batch_size=32)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, end=2, by_epoch=True, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=5, begin=2, end=7, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=7, val_interval=7)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=2))

# Five kinds of branches train for one epoch, whose second half ranks them; then four a block stay.
custom_hooks = [
    dict(type='RepNASHook', strategy='shrink', num_branches=52, frozen=6),
    dict(type='FuseHook'),
    *_base_.run_hooks,
]
