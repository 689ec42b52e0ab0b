# CenterNet with the first two stages of ResNet-18, at half the width, on the embedded COCO of digit scans: a baseline
# for Table 5 at a small scale. They end at stride 8 with 64 channels, after nine convolutions, as the network of
# centernet_odbb_digits.py does.
_base_ = './centernet_odbb_digits.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        stem_channels=32,
        base_channels=32,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(1,),
        norm_cfg=dict(type='BN'),
        norm_eval=False,
    ),
)

# nothing to search or to fuse
find_unused_parameters = False
custom_hooks = []
