# CenterNet searched on the detection task itself: an embedded COCO of digit scans, ten minutes on two CPU cores.
# First: python tools/make_coco_digits.py data/coco_digits
_base_ = ['mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py', './_base_/repnas.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ODBBBackbone',
        arch=dict(num_blocks=[2, 3, 3], width_factor=[1, 1, 1], strides=[1, 2, 2]),
        base_channels=16,
        share_weights=False,
    ),
    # up from stride 8 to 4; deeper features are too coarse to tell digits of 14 to 48 pixels apart
    neck=dict(in_channels=64, num_deconv_filters=(64,), num_deconv_kernels=(4,)),
    bbox_head=dict(num_classes=10, feat_channels=32),
)

coco_digits = dict(
    data_root='data/coco_digits/',
    metainfo=dict(classes=('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')),
)
loader = dict(num_workers=0, persistent_workers=False)
# the stock pipelines at the size of these images, and without flips: a 2 in a mirror is hardly a 2
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PhotoMetricDistortion', brightness_delta=32, hue_delta=18),
    dict(
        type='RandomCenterCropPad',
        crop_size=(128, 128),
        ratios=(0.8, 0.9, 1.0, 1.1, 1.2),
        mean=[0, 0, 0],
        std=[1, 1, 1],
        to_rgb=True,
        test_pad_mode=None,
    ),
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    batch_size=8,
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
# the stock test pipeline pads to 160x160 and tells the head by `border` how to take that back
val_dataloader = dict(batch_size=20, dataset=coco_digits, **loader)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/coco_digits/annotations/instances_val2017.json')
test_evaluator = val_evaluator

optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='Adam', lr=2e-3))
auto_scale_lr = dict(base_batch_size=8)
# Adam's first steps change every weight by the whole lr: without a warm-up they ruin what a backbone brings from its
# classification, and the start of a new one (AP after two epochs, seed 0, without and with it: transferred 0.11 and
# 0.47, plain 0.16 and 0.34)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=1, by_epoch=True, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=9, begin=1, end=10, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=10, val_interval=2)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
randomness = dict(seed=0)

# Five kinds of branches train for two of ten epochs; then as many stay as a hand-made RepVGG of this shape has.
custom_hooks = [
    dict(type='RepNASHook', strategy='shrink', num_branches=24, frozen=8),
    dict(type='FuseHook'),
    *_base_.run_hooks,
]
