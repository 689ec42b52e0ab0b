"""Training under torch.compile: a block is one graph, and a shrinking search the same as without it."""

import pytest
import torch
from torch._dynamo.utils import counters
from torch.testing import assert_close

from repnas_mm.engine.gate_descent import GateDescent
from repnas_mm.models import ODBBlock
from repnas_mm.search import find_blocks


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def shrink_cfg(small_cfg):
    """2 blocks; 12 iterations before the cut, 6 behind it."""
    small_cfg.model.backbone.arch = dict(num_blocks=[1], width_factor=[1], strides=[1])
    small_cfg.model.head.in_channels = 4
    small_cfg.model.backbone.share_weights = False
    del small_cfg.custom_hooks[0]['alpha_optimizer']
    small_cfg.custom_hooks[0].update(strategy='shrink', num_branches=5, warmup=0, frozen=2)
    small_cfg.train_cfg.val_interval = 6
    small_cfg.param_scheduler = None  # each new lr has torch compile the optimizer's step again
    return small_cfg


@pytest.mark.parametrize(
    ('shape', 'settings'),
    [
        ((8, 8), {}),
        ((8, 8), dict(groups=4, dilation=2)),
        ((4, 8), dict(stride=2)),
        ((3, 32), dict(stride=2)),  # the path of a stem
        ((8, 8), dict(share_weights=True)),
    ],
)
def test_a_block_is_one_graph_with_the_gradients_of_autograd(shape, settings):
    torch.manual_seed(0)
    block = ODBBlock(*shape, **settings).double()
    x = torch.randn(2, shape[0], 9, 9, dtype=torch.float64, requires_grad=True)
    results = {}
    state = {name: t.clone() for name, t in block.state_dict().items()}
    for name, forward in dict(plain=block, compiled=torch.compile(block, backend='aot_eager', fullgraph=True)).items():
        block.load_state_dict(state)
        block.zero_grad()
        y = forward(x)
        y.square().sum().backward()
        gradients = {name: p.grad for name, p in block.named_parameters() if p.grad is not None}
        results[name] = dict(y=y.detach(), x=x.grad, **gradients, **dict(block.named_buffers()))
        results[name] = {key: t.clone() for key, t in results[name].items()}
        x.grad = None
    assert len(results['plain']) > 12
    assert_close(results['compiled'], results['plain'], rtol=1e-9, atol=1e-12)


def test_a_compiled_search_ends_with_the_same_network(shrink_cfg, run, tmp_path, monkeypatch):
    plain = run(shrink_cfg)
    shrink_cfg.update(compile=dict(backend='eager'), work_dir=str(tmp_path / 'compiled'))
    traced, step = [], GateDescent.step

    def watched(optimizer):
        traced.append(torch.compiler.is_compiling())
        step(optimizer)

    monkeypatch.setattr(GateDescent, 'step', watched)
    compiled = run(shrink_cfg)
    assert len(traced) > 1 and not any(traced)  # its counters would make the compiler start anew in each step
    assert counters['stats']['unique_graphs'] > 0
    blocks = {name: block.active_branches for name, block in find_blocks(plain.model).items()}
    assert {name: block.active_branches for name, block in find_blocks(compiled.model).items()} == blocks
    # not bit by bit: compiled, the optimizer steps all parameters of a group at once, which rounds otherwise
    assert_close(compiled.model.state_dict(), plain.model.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            dict(strategy='sample'),
            r"would compile each draw anew; .* search with strategy='shrink'\.",
        ),
        (dict(num_branches=None, memory='1MiB'), 'a compiled step passes by; .* or set num_branches instead'),
    ],
)
def test_what_cannot_be_compiled_is_refused(shrink_cfg, run, change, message):
    shrink_cfg.compile = True
    shrink_cfg.custom_hooks[0].update(change)
    with pytest.raises(ValueError, match=message):
        run(shrink_cfg)
