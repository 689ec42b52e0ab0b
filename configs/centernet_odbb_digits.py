# CenterNet searched on the detection task itself: an embedded COCO of digit scans, ten minutes on two CPU cores.
# First: python tools/make_coco_digits.py data/coco_digits
_base_ = ['mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py', './_base_/repnas.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ODBBBackbone',
        arch=dict(num_blocks=[2, 3, 3], width_factor=[1, 1, 1]),
        base_channels=16,
    ),
    # up from stride 16 to 4
    neck=dict(in_channels=64, num_deconv_filters=(32, 32), num_deconv_kernels=(4, 4)),
    bbox_head=dict(num_classes=10, in_channels=32, feat_channels=32),
)

coco_digits = dict(
    data_root='data/coco_digits/',
    metainfo=dict(classes=('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')),
)
loader = dict(num_workers=0, persistent_workers=False)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PhotoMetricDistortion', brightness_delta=32, hue_delta=18),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    batch_size=16,
    dataset=dict(
        _delete_=True,
        type='CocoDataset',
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
        **coco_digits,
    ),
    **loader,
)
val_dataloader = dict(batch_size=20, dataset=coco_digits, **loader)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/coco_digits/annotations/instances_val2017.json')
test_evaluator = val_evaluator

# as configs/_base_/centernet_140e.py, in 40 epochs
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3))
param_scheduler = [dict(type='MultiStepLR', milestones=[26, 34], end=40, by_epoch=True)]
train_cfg = dict(max_epochs=40, val_interval=10)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=10, max_keep_ckpts=1))
randomness = dict(seed=0)

# A hand-made RepVGG of this shape has 23 branches.
custom_hooks = [
    dict(
        type='RepNASHook',
        num_branches=23,
        warmup=2,
        frozen=20,
        alpha_optimizer=dict(type='Adam', lr=0.02, betas=(0.5, 0.999)),
    ),
    dict(type='FuseHook'),
]
