"""Whatever happened to a checkpoint: it loads as what was saved, or is refused with what is wrong with it."""

import io
import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmpretrain.models.backbones import RepVGG
from outcome import Refused, attempt, fuzz

from repnas_mm.engine.checkpoint import build_model, load_file, save_model
from repnas_mm.engine.log_history import log_history_allowed

FILES = {'search': 'epoch_6.pth', 'subnet': 'subnet.pth', 'fused': 'fused.pth'}


class Trained:
    """Config of a small search, the checkpoints (form -> bytes) that one training of it left, and a model of it."""

    def __init__(self, cfg, folder: Path):
        self.cfg = cfg
        self.files = {form: (folder / name).read_bytes() for form, name in FILES.items()}
        self.model = build_model(cfg, self.read('search'))

    def __repr__(self) -> str:
        return 'Trained()'

    def read(self, form: str) -> dict:
        with log_history_allowed():
            return torch.load(io.BytesIO(self.files[form]), weights_only=True)


#: The one that all tests of this process share.
SHARED = []


@pytest.fixture
def trained(small_cfg, run):
    if not SHARED:
        SHARED.append(Trained(small_cfg, Path(run(small_cfg).work_dir)))
    return SHARED[0]


def build(trained: Trained, checkpoint: dict, names=()):
    """The model, checked to be one that computes numbers; or `Refused`."""
    model = attempt(build_model, trained.cfg, checkpoint, names=names)
    if not isinstance(model, Refused):
        with torch.no_grad():
            assert model.eval()(torch.randn(2, 1, 16, 16), mode='tensor').isfinite().all()
    return model


# ------------------------------------------------------------------------------------------------- bytes


class Damage(NamedTuple):
    """What to do to the bytes of a file at a place relative to their length, or that many bytes before their end."""

    how: str
    at: float
    bit: int
    size: int
    noise: bytes
    from_end: int

    def __call__(self, content: bytes) -> bytes:
        data = bytearray(content)
        i = max(len(data) - self.from_end, 0) if self.from_end else int(self.at * (len(data) - 1))
        if self.how == 'truncate':
            del data[i:]
        elif self.how == 'flip':
            data[i] ^= 1 << self.bit
        elif self.how == 'zeros':
            data[i : i + self.size] = bytes(len(data[i : i + self.size]))
        elif self.how == 'drop':
            del data[i : i + self.size]
        elif self.how == 'double':
            data[i:i] = data[i : i + self.size]
        elif self.how == 'front':
            del data[:i]
        else:
            data[i : i + len(self.noise)] = self.noise
        return bytes(data)


damages = st.builds(
    Damage,
    how=st.sampled_from(['truncate', 'flip', 'flip', 'flip', 'zeros', 'drop', 'double', 'front', 'noise']),
    at=st.floats(0, 1),
    bit=st.integers(0, 7),
    size=st.sampled_from([1, 16, 512, 4096]),
    noise=st.binary(min_size=1, max_size=4),
    # the end holds the archive's directory, of which a place drawn evenly would seldom be a part
    from_end=st.just(0) | st.integers(1, 3000),
)


@given(damage=damages, form=st.sampled_from([*FILES]))
@fuzz(200)
def test_a_damaged_file_is_refused_or_loads_as_it_was(tmp_path, trained, damage, form):
    path = tmp_path / 'damaged.pth'
    path.write_bytes(damage(trained.files[form]))
    checkpoint = attempt(load_file, path, names=[str(path)])
    if isinstance(checkpoint, Refused):
        return
    saved = trained.read(form)['state_dict']
    assert checkpoint['state_dict'].keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in checkpoint['state_dict'].items())


@pytest.mark.parametrize('form', FILES)
def test_a_flipped_bit_of_a_weight_is_refused(tmp_path, trained, form):
    with zipfile.ZipFile(io.BytesIO(trained.files[form])) as archive:
        biggest = max(archive.infolist(), key=lambda info: ('/data/' in info.filename, info.file_size))
        weights = archive.read(biggest)
    content = bytearray(trained.files[form])
    content[content.index(weights) + len(weights) // 2] ^= 1
    path = tmp_path / 'flipped.pth'
    path.write_bytes(content)
    with log_history_allowed():
        assert torch.load(path, weights_only=True)['state_dict']  # torch takes it
    with pytest.raises(ValueError, match=f"checksum of '{biggest.filename}' in it is wrong"):
        load_file(path)


@given(content=st.binary(max_size=40) | st.sampled_from([b'PK\3\4', b'\x80\2.', b'\x80\2}q\0.', b'PK\5\6' + bytes(18)]))
@fuzz(60)
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / 'other.pth'
    path.write_bytes(content)
    checkpoint = attempt(load_file, path, names=[str(path)])
    assert isinstance(checkpoint, Refused) or not checkpoint['state_dict']


# ----------------------------------------------------------------------------------------------- contents

JUNK = st.sampled_from(
    [None, 3, 1.5, '', 'two\nlines', [], {}, [1], {'a': 1}, torch.zeros(2), torch.tensor(float('nan'))]
)


def reshaped(tensor: torch.Tensor, how: str) -> torch.Tensor:
    if how == 'longer':
        return torch.cat([tensor, tensor]) if tensor.dim() else tensor.new_zeros(2)
    return {'flat': tensor.flatten, 'empty': lambda: tensor[..., :0], 'more': lambda: tensor[None]}[how]()


def spoil(draw, state: dict, key: str) -> None:
    """One change of an entry of a state dict."""
    value = state[key]
    how = draw(st.sampled_from(['delete', 'rename', 'shape', 'number', 'number', 'junk']))
    if how == 'delete':
        del state[key]
    elif how == 'rename':
        new = draw(st.sampled_from([key + 'x', key.upper(), 'module.' + key, key.replace('.', '_'), '', 'weight']))
        state[new] = state.pop(key)
    elif how == 'shape' and value.dim():
        state[key] = reshaped(value, draw(st.sampled_from(['longer', 'flat', 'empty', 'more'])))
    elif how == 'number' and value.is_floating_point() and value.numel():
        value.view(-1)[draw(st.integers(0, value.numel() - 1))] = draw(
            st.sampled_from([float('nan'), float('inf'), float('-inf')])
        )
    else:
        state[key] = draw(JUNK)


@given(data=st.data(), form=st.sampled_from([*FILES]))
@fuzz(70)
def test_spoiled_weights_are_refused_by_name_or_make_a_model(tmp_path, trained, data, form):
    checkpoint = trained.read(form)
    state = checkpoint['state_dict']
    picks = data.draw(st.lists(st.sampled_from([*state]), min_size=1, max_size=2, unique=True))
    for key in picks:
        if isinstance(state.get(key), torch.Tensor):
            spoil(data.draw, state, key)
    torch.save(checkpoint, tmp_path / 'spoiled.pth')
    model = build(trained, load_file(tmp_path / 'spoiled.pth'))
    if not isinstance(model, Refused):
        loaded = model.state_dict()
        assert all(torch.equal(loaded[name], state[name].to(loaded[name].dtype)) for name in state if name in loaded)


@given(data=st.data(), name=st.sampled_from(['alpha', 'running_mean', 'running_var', 'norm.weight', '.weight']))
@fuzz(40)
def test_a_number_that_is_none_is_refused_with_the_tensor_that_holds_it(trained, data, name):
    state = trained.read('search')['state_dict']
    key = data.draw(st.sampled_from([key for key in state if key.endswith(name)]))
    index = data.draw(st.integers(0, state[key].numel() - 1))
    state[key].view(-1)[index] = data.draw(st.sampled_from([float('nan'), float('inf'), float('-inf')]))
    refused = attempt(build_model, trained.cfg, dict(state_dict=state), names=[key])
    assert isinstance(refused, Refused) and 'NaN or Inf' in refused.message


@given(data=st.data(), form=st.sampled_from([*FILES]))
@fuzz(60)
def test_a_spoiled_outside_is_refused_or_makes_a_model(tmp_path, trained, data, form):
    checkpoint = trained.read(form)
    meta = checkpoint['meta']
    key = data.draw(st.sampled_from(['genotype', 'all', 'no state_dict', 'blocks']))
    junk = data.draw(JUNK)
    if key == 'genotype':
        meta[key] = junk
    elif key == 'all':
        checkpoint = junk
    elif key == 'no state_dict':
        checkpoint['State_dict'] = checkpoint.pop('state_dict')
    else:
        blocks = dict(trained.read('subnet')['meta']['genotype']['blocks'])
        blocks[data.draw(st.sampled_from([*blocks, 'other']))] = data.draw(st.sampled_from([['kxk'], ['KXK'], 3, []]))
        meta['genotype'] = dict(format='repnas_mm.genotype', version=1, blocks=blocks)
    path = tmp_path / 'spoiled.pth'
    torch.save(checkpoint, path)
    checkpoint = attempt(load_file, path, names=[str(path)])
    if not isinstance(checkpoint, Refused):
        build(trained, checkpoint)


@given(data=st.data(), deploy=st.booleans())
@fuzz(30)
def test_a_spoiled_stock_repvgg_is_refused_or_makes_a_model(trained, data, deploy):
    arch = dict(trained.cfg.model.backbone.arch, group_layer_map=None, se_cfg=None, stem_channels=64)
    stock = RepVGG(
        arch, in_channels=1, base_channels=4, strides=(1, 2, 2), dilations=(1,) * 3, out_indices=(2,), deploy=deploy
    )
    state = {key: value for key, value in trained.read('search')['state_dict'].items() if key.startswith('head.')}
    backbone = {f'backbone.{key}': value.clone() for key, value in stock.state_dict().items()}
    assert not isinstance(build(trained, dict(state_dict=state | backbone)), Refused)
    spoil(data.draw, backbone, data.draw(st.sampled_from([*backbone])))
    build(trained, dict(state_dict=state | backbone))


# ------------------------------------------------------------------------------------------------- writing


@given(data=st.data())
@fuzz(5)
def test_a_failing_save_keeps_the_old_file_and_leaves_no_other(tmp_path, trained, data):
    path = tmp_path / 'model.pth'
    state = trained.read('fused')['state_dict']
    save_model(state, path, trained.cfg)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    assert before.keys() == {'model.pth', 'model.py'}
    key = data.draw(st.sampled_from([*state]))
    bad_state = {**state, key: data.draw(st.sampled_from([None, 3, 'x', [1]]))}
    with pytest.raises(Exception):  # noqa: B017 of many kinds: our callers give tensors
        save_model(bad_state, path, trained.cfg)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before
