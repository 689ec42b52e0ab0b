# The search of ODBB-A0 with weights of its own for every branch (paper, Figure 5)
_base_ = './odbb_a0_imagenet.py'

model = dict(backbone=dict(share_weights=False))
