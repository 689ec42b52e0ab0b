# Table 1 for COCO: Adam without weight decay, 140 epochs (28 over data repeated 5 times), lr x 0.1 at 90 and 120,
# no gradient clipping and no warm-up; 512x512. lr and batch size are those of the lighter networks (6 GPUs x 19).
# The neck's convolutions are deformable, as in Table 5's ResNet rows; model = dict(neck=dict(use_dcn=False)) makes the
# neck plain.
_base_ = 'mmdet::centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py'

optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='Adam', lr=5e-4, weight_decay=0))
param_scheduler = [dict(type='MultiStepLR', milestones=[18, 24], end=28, by_epoch=True)]

train_dataloader = dict(batch_size=19)
auto_scale_lr = dict(base_batch_size=114)
