# CenterNet with ODBB-A0 on COCO (paper, Table 5), from what configs/odbb_a0_imagenet.py leaves in its work dir.
_base_ = './_base_/centernet_140e.py'

custom_imports = dict(imports=['repnas_mm'], allow_failed_imports=False)

search = 'work_dirs/odbb_a0_imagenet'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ODBBBackbone',
        arch='A0',
        genotype=f'{search}/genotype.json',
        init_cfg=dict(type='Pretrained', checkpoint=f'{search}/subnet.pth', prefix='backbone.'),
    ),
    neck=dict(in_channels=1280),
)
custom_hooks = [dict(type='FuseHook')]
