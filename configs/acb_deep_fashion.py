# The deep network of odbb_deep_fashion.py with the blocks of ACNet
_base_ = './odbb_deep_fashion.py'

model = dict(backbone=dict(genotype='acb'))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
