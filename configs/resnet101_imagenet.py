# ResNet-101 as in Table 1: 240 epochs on a cosine, in one row with ODBB-B3 and so with its RandAugment, mixup and
# label smoothing; the baseline backbone of Table 5
_base_ = 'mmpretrain::repvgg/repvgg-B3_8xb32_in1k.py'

model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=101, num_stages=4, out_indices=(3,), style='pytorch'),
    head=dict(in_channels=2048),
)

# as the stock ResNet: weight decay on everything
optim_wrapper = dict(paramwise_cfg=None)

param_scheduler = dict(T_max=240, end=240)
train_cfg = dict(max_epochs=240)
