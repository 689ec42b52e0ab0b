# CenterNet with ResNet-101 on COCO (paper, Table 5: the baseline of ODBB-B3); 8 GPUs x 12
_base_ = './_base_/centernet_140e.py'

model = dict(
    backbone=dict(depth=101, init_cfg=dict(checkpoint='torchvision://resnet101')),
    neck=dict(in_channels=2048),
)
optim_wrapper = dict(optimizer=dict(lr=3.75e-4))
train_dataloader = dict(batch_size=12)
auto_scale_lr = dict(base_batch_size=96)
