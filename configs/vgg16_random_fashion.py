# VGG-16 on Fashion-MNIST with a genotype drawn at random, as shared as those of the search (Table 3, small)
_base_ = './vgg16_odbb_fashion.py'

model = dict(backbone=dict(genotype=dict(preset='random', num_branches=52, seed=0), share_weights=True))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
