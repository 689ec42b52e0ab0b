# CenterNet with ODBB-B3 on COCO (paper, Table 5), from what configs/odbb_b3_imagenet.py leaves in its work dir;
# 8 GPUs x 12
_base_ = './centernet_odbb_a0.py'

search = 'work_dirs/odbb_b3_imagenet'
model = dict(
    backbone=dict(arch='B3', genotype=f'{search}/genotype.json', init_cfg=dict(checkpoint=f'{search}/subnet.pth')),
    neck=dict(in_channels=2560),
)
optim_wrapper = dict(optimizer=dict(lr=3.75e-4))
train_dataloader = dict(batch_size=12)
auto_scale_lr = dict(base_batch_size=96)
