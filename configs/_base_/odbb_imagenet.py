# Table 1 for ODBB-A0 to B2: 150 epochs, batch 256, lr 0.1 on a cosine, weight decay 1e-4, augmentation as RepVGG.
# Batch size, lr and augmentation are the stock RepVGG config's (8 GPUs x 32).
_base_ = ['mmpretrain::repvgg/repvgg-A0_8xb32_in1k.py', './repnas.py']

model = dict(backbone=dict(_delete_=True, type='ODBBBackbone', arch='A0', share_weights=True))

# as RepVGG: no weight decay on norms and biases
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0, bias_decay_mult=0.0))

param_scheduler = dict(T_max=150, end=150)
train_cfg = dict(max_epochs=150)

# C as printed in the paper, which counts three branches a layer; RepVGG-A really has 61 (5 layers have no skip)
custom_hooks = [dict(type='RepNASHook', strategy='sample', num_branches=66), dict(type='FuseHook'), *_base_.run_hooks]
