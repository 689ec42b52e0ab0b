"""Options of paramwise_cfg reach blocks as they reach the convolutions that these stand for."""

from types import SimpleNamespace

import pytest
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from torch import nn

from repnas_mm.engine.hooks import FuseHook, RepNASHook, SafeLoadHook
from repnas_mm.engine.paramwise import reach_blocks
from repnas_mm.models import ODBBConv2d, to_odbb

WD, FACTOR = 0.1, 0.5


def network(conv):
    return nn.Sequential(
        conv(3, 8, 3), nn.BatchNorm2d(8), conv(8, 8, 3, groups=8, bias=False), nn.Conv2d(8, 8, 3, groups=8)
    )


def groups_of(model, options, hook=None):
    """Name -> optimizer's options of each parameter of 4 dimensions, in a run with ``hook``."""
    cfg = ConfigDict(optimizer=dict(type='SGD', lr=1, weight_decay=WD), paramwise_cfg=options)
    wrapper = build_optim_wrapper(model, ConfigDict(cfg))
    if hook is not None:
        runner = SimpleNamespace(cfg=ConfigDict(optim_wrapper=cfg), optim_wrapper=wrapper, model=model)
        SafeLoadHook.before_run(hook, runner)
        hook._loading.close()
    names = {id(p): name for name, p in model.named_parameters() if p.dim() == 4}
    return {names[id(g['params'][0])]: g for g in wrapper.optimizer.param_groups if id(g['params'][0]) in names}


@pytest.mark.parametrize('hook', [SafeLoadHook, FuseHook, lambda: RepNASHook(num_branches=9)])
@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (dict(dwconv_decay_mult=FACTOR), (WD, WD * FACTOR, WD * FACTOR)),
        (dict(dwconv_decay_mult=0.0), (WD, 0, 0)),
        (dict(dwconv_decay_mult=FACTOR, custom_keys={'2.': dict(decay_mult=2)}), (WD, 2 * WD, WD * FACTOR)),
        (dict(norm_decay_mult=0.0), (WD, WD, WD)),
        (dict(custom_keys={'0.': dict(decay_mult=3)}), (3 * WD, WD, WD)),
    ],
)
def test_every_kernel_of_a_block_decays_as_the_convolution_in_its_place(hook, options, expected):
    stock = groups_of(network(nn.Conv2d), options)
    assert tuple(stock[f'{i}.weight']['weight_decay'] for i in (0, 2, 3)) == expected
    ours = groups_of(network(ODBBConv2d), options, hook())
    assert len(ours) > 10
    for name, group in ours.items():
        assert group['weight_decay'] == stock[f'{name[0]}.weight']['weight_decay'], name


def test_offsets_of_deformable_convolutions_keep_their_learning_rate():
    from mmcv.ops import ModulatedDeformConv2dPack

    options = dict(dcn_offset_lr_mult=0.1)
    model = to_odbb(nn.Sequential(nn.Conv2d(3, 4, 3), ModulatedDeformConv2dPack(4, 4, 3)))
    assert groups_of(model, options)['1.conv_offset.weight']['lr'] == 0.1


def test_a_key_that_names_the_weight_of_a_block_is_refused_and_not_passed_over():
    with pytest.raises(
        ValueError, match=r"^Key '0\.weight' in custom_keys .* names the weight of '0', .* as in '0'\.$"
    ):
        groups_of(network(ODBBConv2d), dict(custom_keys={'0.weight': dict(lr_mult=0)}), SafeLoadHook())
    assert groups_of(network(nn.Conv2d), dict(custom_keys={'0.weight': dict(lr_mult=0)}), SafeLoadHook())


def test_a_run_that_only_tests_has_no_optimizer_yet():
    cfg = ConfigDict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=1)))
    for wrapper in (cfg.optim_wrapper, None):
        reach_blocks(SimpleNamespace(cfg=cfg, optim_wrapper=wrapper, model=network(ODBBConv2d)))
