# VGG-16 on Fashion-MNIST with the blocks of RepVGG (Table 3 at a small scale)
_base_ = './vgg16_odbb_fashion.py'

model = dict(backbone=dict(genotype='repvgg', share_weights=None))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
