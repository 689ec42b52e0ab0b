# Algorithm 1 on the deep network of odbb_deep_digits.py: other branches in every step
_base_ = './odbb_deep_digits.py'

model = dict(backbone=dict(share_weights=True))

custom_hooks = [
    dict(
        type='RepNASHook',
        strategy='sample',
        num_branches=80,
        frozen=24,
        alpha_optimizer=dict(type='Adam', lr=0.02, betas=(0.5, 0.999)),
    ),
    dict(type='FuseHook'),
    *_base_.run_hooks,
]
