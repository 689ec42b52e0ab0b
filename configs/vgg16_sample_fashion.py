# Algorithm 1 on VGG-16 and Fashion-MNIST: other branches in every step, one kernel for all of a block. So few steps
# need a high lr of alpha.
_base_ = './vgg16_odbb_fashion.py'

model = dict(backbone=dict(share_weights=True))

custom_hooks = [
    dict(
        type='RepNASHook',
        strategy='sample',
        num_branches=52,
        frozen=4,
        alpha_optimizer=dict(type='Adam', lr=0.025, betas=(0.5, 0.999)),
    ),
    dict(type='FuseHook'),
    *_base_.run_hooks,
]
