# Half of ShuffleNetV2 on Fashion-MNIST, on the schedule of the search (Figure 1, small)
_base_ = './repvgg_a0_fashion.py'

model = dict(
    # three means make three channels of the grey one: the stock class takes no other images
    data_preprocessor=dict(mean=[72.94] * 3, std=[90.02] * 3),
    backbone=dict(_delete_=True, type='ShuffleNetV2', widen_factor=0.5),
    head=dict(in_channels=1024),
)

# nothing to fuse
custom_hooks = []
