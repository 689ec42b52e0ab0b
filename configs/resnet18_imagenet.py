# ResNet-18 as in Table 1: 150 epochs on a cosine; the baseline backbone of Table 5
_base_ = ['mmpretrain::resnet/resnet18_8xb32_in1k.py']

param_scheduler = dict(
    _delete_=True, type='CosineAnnealingLR', T_max=150, end=150, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(max_epochs=150)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
