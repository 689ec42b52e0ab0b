# VGG-16 on CIFAR-10 with the blocks of ACNet (paper, Table 3)
_base_ = './vgg16_odbb_cifar10.py'

model = dict(backbone=dict(genotype='acb', share_weights=None))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
