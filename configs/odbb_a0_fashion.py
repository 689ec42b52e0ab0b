# ODBB-A0 on Fashion-MNIST at 1/8 of the width (Table 4 at a small scale). C is what RepVGG-A0 really has.
_base_ = './vgg16_odbb_fashion.py'

model = dict(backbone=dict(arch='A0', base_channels=8), head=dict(in_channels=160))

custom_hooks = [
    dict(type='RepNASHook', strategy='shrink', num_branches=61, frozen=6),
    dict(type='FuseHook'),
    *_base_.run_hooks,
]
