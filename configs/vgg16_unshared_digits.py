# Algorithm 1 on VGG-16 and digits with weights of its own for every branch (Figure 5 at a small scale)
_base_ = './vgg16_sample_digits.py'

model = dict(backbone=dict(share_weights=False))
