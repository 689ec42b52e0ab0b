# ResNet-18 for small images at 1/8 of the width on Fashion-MNIST, on the schedule of the search (Figure 1, small)
_base_ = './repvgg_a0_fashion.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet_CIFAR',
        depth=18,
        in_channels=1,
        stem_channels=8,
        base_channels=8,
        # blocks that start as identities learn too little in so few steps
        zero_init_residual=False,
    ),
    head=dict(in_channels=64),
)

# nothing to fuse
custom_hooks = []
