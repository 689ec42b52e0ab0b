# RepNAS on ImageNet, ODBB-B3 (paper, Tables 1 and 4): 240 epochs, with the RandAugment, mixup and label smoothing of
# the stock RepVGG-B3 config
_base_ = ['mmpretrain::repvgg/repvgg-B3_8xb32_in1k.py', './_base_/repnas.py']

model = dict(backbone=dict(_delete_=True, type='ODBBBackbone', arch='B3', share_weights=True))

# as RepVGG: no weight decay on norms and biases
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0, bias_decay_mult=0.0))

param_scheduler = dict(T_max=240, end=240)
train_cfg = dict(max_epochs=240)

# C as printed in the paper; RepVGG-B really has 79
custom_hooks = [dict(type='RepNASHook', strategy='sample', num_branches=84), dict(type='FuseHook'), *_base_.run_hooks]
