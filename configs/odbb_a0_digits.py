# ODBB-A0 on digits at 1/8 of the width (Table 4 at a small scale). C is what RepVGG-A0 really has.
_base_ = './vgg16_odbb_digits.py'

model = dict(backbone=dict(arch='A0', base_channels=8), head=dict(in_channels=160))

custom_hooks = [
    dict(
        type='RepNASHook',
        strategy='sample',
        num_branches=61,
        frozen=12,
        alpha_optimizer=dict(type='Adam', lr=0.02, betas=(0.5, 0.999)),
    ),
    dict(type='FuseHook'),
    *_base_.run_hooks,
]
