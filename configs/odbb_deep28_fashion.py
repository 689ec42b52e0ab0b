# The network of odbb_deep_fashion.py with 28 layers
_base_ = './odbb_deep_fashion.py'

model = dict(backbone=dict(arch=dict(num_blocks=[4, 6, 16, 1])))

custom_hooks = [
    dict(type='RepNASHook', strategy='shrink', num_branches=52, frozen=5),
    dict(type='FuseHook'),
    *_base_.run_hooks,
]
