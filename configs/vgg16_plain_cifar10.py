# VGG-16 on CIFAR-10 with a plain network, one 3x3 convolution a layer (paper, Table 3)
_base_ = './vgg16_odbb_cifar10.py'

model = dict(backbone=dict(genotype='plain', share_weights=None))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
