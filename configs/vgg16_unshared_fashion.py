# Algorithm 1 on VGG-16 and Fashion-MNIST with weights of its own for every branch (Figure 5 at a small scale)
_base_ = './vgg16_sample_fashion.py'

model = dict(backbone=dict(share_weights=False))
