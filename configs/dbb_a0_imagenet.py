# RepVGG-A0 with Diverse Branch Blocks instead of its own blocks (paper, Figure 4)
_base_ = './odbb_a0_imagenet.py'

model = dict(backbone=dict(genotype='dbb', share_weights=None))

find_unused_parameters = False
custom_hooks = [dict(type='FuseHook')]
