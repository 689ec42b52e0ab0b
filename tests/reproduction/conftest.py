"""A scale so small that its trainings take a second each, with its configs."""

import pytest

from reproduction.scales import Scale

from pretended import CONFIGS, FakeLab  # isort: skip

METHODS = ('plain', 'acb', 'dbb', 'repvgg', 'random', 'sample', 'unshared')

TINY = """
_base_ = '{base}'
model = dict(backbone=dict(base_channels=2), head=dict(in_channels=16))
train_dataloader = dict(batch_size=16, dataset=dict(indices=64))
val_dataloader = dict(batch_size=20, dataset=dict(indices=20))
test_dataloader = val_dataloader
param_scheduler = [dict(type='CosineAnnealingLR', T_max=2, end=2, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=2, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
"""
SEARCH = """
custom_hooks = [
    dict(type='RepNASHook', strategy='{}', num_branches=20, frozen=1),
    dict(type='FuseHook'),
    dict(type='ExactResumeHook'),
]
"""
FIXED = "find_unused_parameters = False\ncustom_hooks = [dict(type='FuseHook')]"
BACKBONES = {
    'random': "genotype=dict(preset='random', num_branches=52, seed=0)",
    'sample': 'share_weights=True',
    'unshared': 'share_weights=False',
}


@pytest.fixture(scope='session')
def tiny_configs(tmp_path_factory):
    """The configs of VGG-16 on digits, made tiny."""
    folder = tmp_path_factory.mktemp('configs')
    search = TINY.format(base=CONFIGS / 'vgg16_odbb_digits.py')
    (folder / 'vgg16_odbb_tiny.py').write_text(search + SEARCH.format('shrink'))
    for method in METHODS:
        backbone = BACKBONES.get(method, f"genotype='{method}'")
        text = f"_base_ = './vgg16_odbb_tiny.py'\nmodel = dict(backbone=dict({backbone}))\n"
        ends = dict(sample=SEARCH.format('sample'), unshared=SEARCH.format('sample'))
        (folder / f'vgg16_{method}_tiny.py').write_text(text + ends.get(method, FIXED))
    return folder


@pytest.fixture
def tiny():
    return Scale(
        'tiny',
        items=('table3', 'figure4', 'figure5'),
        seeds=2,
        image_size=32,
        ablation='vgg16_{}_tiny',
        sweep=(15, 30),
        short_epochs=1,
        trained_on=64,
        held_out=32,
        snapshots=(1, 2),
    )


@pytest.fixture
def fake_lab(tmp_path):
    return lambda score=lambda name: 90.0, **kwargs: FakeLab(tmp_path / 'fake', score, **kwargs)
