# The search on VGG-16 and CIFAR-10 with weights of its own for every branch (the ablation of Figure 5)
_base_ = './vgg16_odbb_cifar10.py'

model = dict(backbone=dict(share_weights=False))
