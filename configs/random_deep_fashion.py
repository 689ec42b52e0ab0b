# The deep network of odbb_deep_fashion.py with a genotype drawn at random
_base_ = './odbb_deep_fashion.py'

model = dict(backbone=dict(genotype=dict(preset='random', num_branches=76, seed=0)))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
