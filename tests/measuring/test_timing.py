"""Seconds of calls that take turns, and of forwards of every model in its own format."""

import pytest
import torch
from torch import nn

from measuring import timing
from measuring.timing import latencies, take_turns


def test_runs_take_turns_after_one_round_to_warm_up():
    calls = []
    seconds = take_turns({name: lambda name=name: calls.append(name) for name in 'ab'}, 2, 5, 0)
    assert calls == list('ab' * 3)
    assert {name: len(s) for name, s in seconds.items()} == dict(a=2, b=2)
    assert len(take_turns({'a': int}, 2, 5, 1e9)['a']) == 5


@pytest.mark.parametrize('channels_last', [False, True])
def test_latencies_measure_every_model_in_its_own_format(channels_last, monkeypatch):
    monkeypatch.setattr(timing, 'SECONDS', 0.0)
    seen = {}

    class Net(nn.Conv2d):
        def forward(self, x):
            seen[self.in_channels] = (
                x.shape,
                x.is_contiguous(memory_format=torch.channels_last),
                self.training,
                torch.is_inference_mode_enabled(),
            )
            return super().forward(x)

    models = {'grey': Net(1, 4, 3), 'color': Net(3, 4, 3)}
    measured = latencies(models, 2, 8, channels_last, in_channels={'grey': 1, 'color': 3})
    assert list(measured) == ['grey', 'color'] and all(seconds > 0 for seconds in measured.values())
    assert seen[3] == ((2, 3, 8, 8), channels_last, False, True)
    assert seen[1][0] == (2, 1, 8, 8)
