# VGG-16 on digits with Diverse Branch Blocks (Table 3 at a small scale)
_base_ = './vgg16_odbb_digits.py'

model = dict(backbone=dict(genotype='dbb', share_weights=None))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
