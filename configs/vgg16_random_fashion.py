# VGG-16 on Fashion-MNIST with a genotype drawn at random (Table 3 at a small scale)
_base_ = './vgg16_odbb_fashion.py'

model = dict(backbone=dict(genotype=dict(preset='random', num_branches=52, seed=0)))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
