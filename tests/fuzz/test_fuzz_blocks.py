"""Whatever the arguments of a block, a layer or a backbone: it computes what its shape says, or names the argument."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from outcome import Refused, attempt, fuzz
from torch import nn

from repnas_mm.models import ODBBBackbone, ODBBConv2d, ODBBlock
from repnas_mm.search import BRANCHES, PRESETS, find_blocks

JUNK = st.sampled_from(
    [None, -1, 0, 1.5, float('nan'), float('inf'), 10**400, '', '3', 'two\nlines. Of text', b'kxk', True, (), [], {}]
    + [(3, 3, 3), ['kxk', ['kxk']], {'type': 3}, {'type': 'NoSuchThing'}, object(), torch.zeros(3, 3), np.ones((2, 2))]
    + [slice(3), nn.ReLU, Ellipsis, 1j]
)
FLAG = st.booleans()
BRANCH_LISTS = st.lists(st.sampled_from([*BRANCHES]), min_size=1, max_size=4) | st.lists(
    st.sampled_from([*BRANCHES, 'KxK', '', 3, None, ['kxk'], 'a\nb']), max_size=3
)
NORMS = st.fixed_dictionaries(
    {'type': st.sampled_from(['BN', 'BN', 'BN2d', 'SyncBN', nn.BatchNorm2d, 'BN1d', 'GN', 'LN', 'ReLU', 'NoBN', None])},
    optional={
        'eps': st.sampled_from([1e-3, 1e-5, 0.0, -1.0, float('nan'), '1e-5', None]),
        'momentum': st.sampled_from([0.1, None, 0, 1, 2.0, -0.1, float('nan'), 'x']),
        'requires_grad': FLAG | st.just('no'),
        'affine': FLAG,
        'track_running_stats': FLAG,
        'num_features': st.just(3),
        'unknown': st.just(1),
    },
)
GOOD_NORMS = st.sampled_from([dict(type='BN'), dict(type='SyncBN', eps=1e-3)])
ACTIVATIONS = st.sampled_from(
    [None, dict(type='ReLU', inplace=True), dict(type='SiLU'), dict(type='Sigmoid'), dict(type='ReLU', inplace='x')]
    + [dict(type='ReLU', slope=1), dict(type='NoSuch'), dict(inplace=True), {}, 'ReLU', dict(type=nn.Tanh)]
)


@st.composite
def arguments(draw, mostly: dict, seldom: dict, spoiled: int = 2):
    """Keyword arguments, most of them of ``mostly``; a few of ``seldom``, or anything at all."""
    given = draw(st.fixed_dictionaries({}, optional=mostly))
    for name in draw(st.lists(st.sampled_from([*seldom]), max_size=spoiled, unique=True)):
        given[name] = draw(seldom[name] | JUNK)
    return given


def fuses(module, x: torch.Tensor) -> torch.Tensor:
    """What ``module`` computes in eval mode, checked to be finite and the same when every block in it is fused."""
    module.double().eval()  # stock RepVGG's eval returns None
    with torch.no_grad():
        expected = module(x)
        for block in find_blocks(module).values():
            block.switch_to_deploy()
        got = module(x)
    for y, z in zip(*((out,) if isinstance(out, torch.Tensor) else out for out in (got, expected))):
        assert z.isfinite().all()
        torch.testing.assert_close(y, z, rtol=1e-10, atol=1e-10)
    return expected


SIZES = st.sampled_from([1, 2, 3, 4, 6, 8])
BLOCK = dict(
    in_channels=SIZES,
    out_channels=SIZES,
    kernel_size=st.sampled_from([3, 5, 7]),
    stride=st.sampled_from([1, 2, 3]),
    groups=st.sampled_from([1, 1, 2]),
    dilation=st.sampled_from([1, 2, 3]),
    branches=st.just(('kxk', '1x1')) | st.none(),
    share_weights=FLAG,
    norm_cfg=GOOD_NORMS,
    act_cfg=st.sampled_from([None, dict(type='ReLU', inplace=True)]),
    with_cp=FLAG,
    deploy=FLAG,
)
BAD_BLOCK = {
    name: st.integers(-2, 9) for name in ('in_channels', 'out_channels', 'kernel_size', 'stride', 'groups', 'dilation')
} | dict(branches=BRANCH_LISTS, norm_cfg=NORMS, act_cfg=ACTIVATIONS, share_weights=FLAG, with_cp=FLAG, deploy=FLAG)


@given(arguments(BLOCK, BAD_BLOCK))
@fuzz(300)
def test_a_block_computes_and_fuses_or_names_its_argument(given):
    given = dict(in_channels=4, out_channels=4) | given
    block = attempt(ODBBlock, names=[*given, 'branch'], **given)
    if isinstance(block, Refused):
        return
    x = torch.randn(2, block.in_channels, 7, 8, dtype=torch.float64)
    pixels = [-(-n // block.stride) for n in x.shape[2:]]
    assert fuses(block, x).shape == (2, block.out_channels, *pixels)


PAIRS = st.integers(-1, 7) | st.tuples(st.integers(0, 5), st.integers(0, 5)) | st.lists(st.integers(1, 3), max_size=3)
PRESET_NAMES = st.none() | st.sampled_from([*PRESETS])
CONV = dict(
    stride=st.sampled_from([1, 2, (2, 2), (1, 2)]),
    padding=st.sampled_from([0, 1, 2, (2, 1), [1, 1], 'valid', 'same', (0, 3)]),
    dilation=st.sampled_from([1, 1, 1, 2]),
    groups=st.sampled_from([1, 1, 2]),
    bias=FLAG,
    padding_mode=st.sampled_from(['zeros', 'zeros', 'zeros', 'reflect', 'circular']),
    genotype=PRESET_NAMES,
    share_weights=st.none() | FLAG,
    norm_cfg=GOOD_NORMS,
    with_cp=FLAG,
    adaptive_padding=FLAG,
    deploy=FLAG,
)
BAD_CONV = {name: PAIRS for name in ('kernel_size', 'stride', 'padding', 'dilation')} | dict(
    in_channels=SIZES,
    out_channels=SIZES,
    groups=st.integers(-2, 5),
    padding_mode=st.sampled_from(['Zeros', 'replicate', '']),
    genotype=st.sampled_from(['random', 'genotype.json', dict(preset='acb')]),
    norm_cfg=NORMS,
    share_weights=FLAG,
    with_cp=FLAG,
    adaptive_padding=FLAG,
    deploy=FLAG,
)


@given(arguments(CONV, BAD_CONV), st.sampled_from([3, 3, 3, (3, 3), 5, 1, 2, (3, 5)]))
@fuzz(300)
def test_a_layer_answers_as_conv2d_does_or_names_its_argument(given, kernel_size):
    given = dict(in_channels=4, out_channels=4, kernel_size=kernel_size) | given
    layer = attempt(ODBBConv2d, names=[*given], **given)
    if isinstance(layer, Refused):
        return
    own = (
        'in_channels',
        'out_channels',
        'kernel_size',
        'stride',
        'padding',
        'dilation',
        'groups',
        'bias',
        'padding_mode',
    )
    shape = {name: value for name, value in given.items() if name in own}
    x = torch.randn(2, layer.in_channels, 45, 46, dtype=torch.float64)
    if given.get('adaptive_padding'):
        shape.pop('padding_mode', None)
        stock = Conv2dAdaptivePadding(**shape)
    else:
        stock = nn.Conv2d(**shape)
    assert fuses(nn.Sequential(layer), x).shape == stock.double()(x).shape


ARCH = dict(num_blocks=[1, 2], width_factor=[1, 0.5])
NUMBERS = st.lists(st.sampled_from([1, 1, 2, 0, -1, 0.5, float('nan'), '1', None, True]), max_size=3) | JUNK
ARCHES = st.sampled_from([ARCH, ARCH | dict(pool=True), ARCH | dict(strides=[1, 2], group_layer_map={2: 2})]) | (
    st.fixed_dictionaries(
        dict(num_blocks=st.just([1, 1]) | NUMBERS, width_factor=st.just([1, 1]) | NUMBERS),
        optional=dict(
            strides=st.just([1, 1]) | NUMBERS,
            group_layer_map=st.dictionaries(st.sampled_from([0, 1, 2, 9, '1']), st.integers(-1, 3), max_size=2) | JUNK,
            stem_channels=st.integers(-1, 8) | JUNK,
            pool=FLAG | JUNK,
            blocks=JUNK,
        ),
    )
)
BACKBONE = dict(
    in_channels=st.sampled_from([1, 3]),
    kernel_size=st.sampled_from([3, 5]),
    out_indices=st.sampled_from([None, (0,), [0, 1], (-1,)]),
    strides=st.sampled_from([None, (1, 2)]),
    dilations=st.sampled_from([None, (1, 2)]),
    add_ppf=FLAG,
    frozen_stages=st.sampled_from([-1, 0, 2]),
    norm_eval=FLAG,
    with_cp=FLAG,
    share_weights=st.none() | FLAG,
    genotype=st.sampled_from([None, *PRESETS, dict(preset='random', num_branches=9, seed=0)]),
    deploy=FLAG,
)
BAD_BACKBONE = dict(
    arch=ARCHES | st.sampled_from(['A9', 'a0', '', 'A0\n']),
    in_channels=st.integers(-1, 4),
    base_channels=st.integers(-1, 9),
    kernel_size=st.integers(-1, 6),
    out_indices=st.lists(st.sampled_from([0, 1, 2, -1, '0', None]), max_size=3),
    strides=NUMBERS,
    dilations=NUMBERS,
    conv_cfg=st.sampled_from([None, dict(type='Conv2d')]),
    frozen_stages=st.integers(-3, 4),
    norm_cfg=NORMS,
    act_cfg=ACTIVATIONS,
    genotype=st.sampled_from(
        ['random', 'none.json', 'a\nb', '\0', dict(preset='random'), dict(preset='acb', seed=1), dict(preset=None)]
        + [dict(preset='random', num_branches=n, seed=s) for n, s in ((3, 0), (99, 0), ('9', 0), (9, [0]), (9, None))]
        + [dict(preset='acb', color='red'), dict(blocks=3), {3: 4}, 'odbb_a0_authors']
    ),
    share_weights=FLAG,
    deploy=FLAG,
    norm_eval=FLAG,
    with_cp=FLAG,
    base=st.sampled_from(
        [
            dict(type='mmpretrain.RepVGG', arch='A0', deploy=True, base_channels=8),
            dict(type='mmpretrain.NoSuchNet'),
            dict(type='ReLU'),
            dict(a=1),
        ]
    ),
)
#: What a sentence may name instead of the argument itself: a part of it.
PARTS = [
    'num_blocks',
    'width_factor',
    'strides',
    'dilations',
    'se_cfg',
    'group_layer_map',
    'stem_channels',
    'pool',
    'groups',
    'preset',
    'seed',
]
PARTS += ['num_branches', 'Genotype file', 'Unknown arch', 'base']


@given(arguments(BACKBONE, BAD_BACKBONE))
@fuzz(150)
def test_a_backbone_computes_and_fuses_or_names_its_argument(given):
    given = dict(arch=ARCH, base_channels=8) | given
    backbone = attempt(ODBBBackbone, names=[*given, *PARTS], **given)
    if isinstance(backbone, Refused):
        return
    assert isinstance(backbone, ODBBBackbone)
    x = torch.randn(2, given.get('in_channels', 3), 32, 32, dtype=torch.float64)
    out = fuses(backbone, x)
    assert len(out) == len(set(backbone.out_indices)) and backbone.deploy


@given(
    arguments(
        dict(genotype=PRESET_NAMES, share_weights=FLAG, with_cp=FLAG, norm_cfg=GOOD_NORMS, deploy=FLAG),
        {name: BAD_BACKBONE[name] for name in ('base', 'genotype', 'share_weights', 'with_cp', 'norm_cfg', 'arch')},
    )
)
@fuzz(40)
def test_a_converted_backbone_computes_and_fuses_or_names_its_argument(given):
    given = dict(base=dict(type='mmpretrain.LeNet5')) | given
    backbone = attempt(ODBBBackbone, names=[*given, *PARTS, 'convolution'], **given)
    if isinstance(backbone, Refused | ODBBBackbone):
        return
    channels = 1 if given['base']['type'] == 'mmpretrain.LeNet5' else 3
    fuses(backbone, torch.randn(2, channels, 32, 32, dtype=torch.float64))
