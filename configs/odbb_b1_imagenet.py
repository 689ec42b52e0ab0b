# RepNAS on ImageNet, ODBB-B1 (paper, Tables 1 and 4)
_base_ = './_base_/odbb_imagenet.py'

model = dict(backbone=dict(arch='B1'), head=dict(in_channels=2048))

# C as printed in the paper; RepVGG-B really has 79
custom_hooks = [dict(type='RepNASHook', strategy='sample', num_branches=84), dict(type='FuseHook'), *_base_.run_hooks]
