# The deep network of odbb_deep_digits.py with Diverse Branch Blocks
_base_ = './odbb_deep_digits.py'

model = dict(backbone=dict(genotype='dbb'))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
