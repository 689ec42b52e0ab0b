# RepNAS on ImageNet, ODBB-B2 (paper, Tables 1 and 4)
_base_ = './odbb_b1_imagenet.py'

model = dict(backbone=dict(arch='B2'), head=dict(in_channels=2560))
