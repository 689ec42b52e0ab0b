# RepVGG-B3 on the schedule of the search, to compare with (paper, Table 4)
_base_ = './odbb_b3_imagenet.py'

model = dict(backbone=dict(genotype='repvgg', share_weights=None))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
