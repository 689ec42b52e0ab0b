# VGG-16 on CIFAR-10 with Diverse Branch Blocks (paper, Table 3)
_base_ = './vgg16_odbb_cifar10.py'

model = dict(backbone=dict(genotype='dbb', share_weights=None))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
