# RepVGG-A0 on Fashion-MNIST at 1/8 of the width, on the schedule of the search (Table 4 at a small scale)
_base_ = './odbb_a0_fashion.py'

model = dict(backbone=dict(genotype='repvgg', share_weights=None))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
