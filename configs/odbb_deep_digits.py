# A network so deep and narrow, 40 layers of 8 to 32 channels, that its branches decide what it learns, on the digits of
# the demo. The 197 branches of five kinds train for 8 of 40 epochs; then two a block stay.
_base_ = './odbb_digits.py'

model = dict(
    backbone=dict(
        arch=dict(num_blocks=[13, 13, 13], width_factor=[1, 1, 1], strides=[1, 2, 2]),
        base_channels=8,
    ),
    head=dict(in_channels=32),
)

optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=8, by_epoch=True, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=32, begin=8, end=40, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=40)

custom_hooks = [
    dict(type='RepNASHook', strategy='shrink', num_branches=80, frozen=32),
    dict(type='FuseHook'),
    *_base_.run_hooks,
]
