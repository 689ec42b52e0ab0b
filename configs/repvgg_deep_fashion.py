# The deep network of odbb_deep_fashion.py with the blocks of RepVGG
_base_ = './odbb_deep_fashion.py'

model = dict(backbone=dict(genotype='repvgg'))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
