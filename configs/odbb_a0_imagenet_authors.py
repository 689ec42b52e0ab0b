# ODBB-A0 on the schedule of the authors' published training script, which differs from the paper's text: 15 epochs of
# warm-up, 35 of search and 100 with a frozen genotype; weights not shared; weight decay of alpha; gradient clipping.
#
# Where this does not follow it:
# - They keep `skip` wherever it exists and 44 other branches. Here skip competes with the others for the same total,
#   44 + 17: drawn at random, about 7 skips and 54 others.
# - They keep no branch of a block first, so that 1.8 of the 22 blocks, on average, draw nothing but their skip, or
#   their own 3x3 at stride 2. Here every block keeps its best branch.
# - Their `1x1_kxk` has no 1x1 where the stride is 2. Ours has it everywhere.
# - They anneal the weight decay of alpha on a cosine to 0. Here it is constant, for the 35 epochs in which alpha is
#   stepped; its lr is constant in both.
# - They clip the gradients of alpha together with those of the weights. Here alpha is not clipped.
# - Their convolutions start as torch's do. Ours start as RepVGG's, with 2.45 times the standard deviation.
# - They apply dropout 0.1 before the classifier, for which the stock LinearClsHead has no option.
_base_ = './odbb_a0_imagenet.py'

model = dict(backbone=dict(share_weights=False))

optim_wrapper = dict(clip_grad=dict(max_norm=5))

custom_hooks = [
    dict(
        type='RepNASHook',
        strategy='sample',
        num_branches=61,
        warmup=15,
        frozen=100,
        alpha_optimizer=dict(type='Adam', lr=1e-4, betas=(0.5, 0.999), weight_decay=5e-4),
    ),
    dict(type='FuseHook'),
    *_base_.run_hooks,
]
