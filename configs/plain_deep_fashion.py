# The deep network of odbb_deep_fashion.py with one 3x3 convolution a layer
_base_ = './odbb_deep_fashion.py'

model = dict(backbone=dict(genotype='plain'))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
