# VGG-16 on CIFAR-10 with a genotype drawn at random (paper, Table 3), its blocks as shared as those of the search
_base_ = './vgg16_odbb_cifar10.py'

model = dict(backbone=dict(genotype=dict(preset='random', num_branches=52, seed=0), share_weights=True))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
