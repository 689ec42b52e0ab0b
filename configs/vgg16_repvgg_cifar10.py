# VGG-16 on CIFAR-10 with the blocks of RepVGG; the paper has no such row (paper, Table 3)
_base_ = './vgg16_odbb_cifar10.py'

model = dict(backbone=dict(genotype='repvgg', share_weights=None))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
