# RepNAS on ImageNet, ODBB-A2 (paper, Tables 1 and 4)
_base_ = './_base_/odbb_imagenet.py'

model = dict(backbone=dict(arch='A2'), head=dict(in_channels=1408))
