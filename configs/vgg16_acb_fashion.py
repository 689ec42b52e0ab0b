# VGG-16 on Fashion-MNIST with the blocks of ACNet (Table 3 at a small scale)
_base_ = './vgg16_odbb_fashion.py'

model = dict(backbone=dict(genotype='acb', share_weights=None))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
