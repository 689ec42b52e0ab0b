# A network so deep and narrow, 28 layers of 8 to 32 channels, that its branches decide what it learns, on the digits of
# the demo. All 193 candidates train for 12 of 60 epochs; then two a block stay.
_base_ = './odbb_digits.py'

model = dict(
    backbone=dict(
        arch=dict(num_blocks=[9, 9, 9], width_factor=[1, 1, 1], strides=[1, 2, 2]),
        base_channels=8,
        share_weights=False,
    ),
    head=dict(in_channels=32),
)

optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=12, by_epoch=True, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=48, begin=12, end=60, by_epoch=True, convert_to_iter_based=True),
]

custom_hooks = [
    dict(type='RepNASHook', strategy='shrink', num_branches=56, frozen=48),
    dict(type='FuseHook'),
    *_base_.run_hooks,
]
