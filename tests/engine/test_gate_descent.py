"""GateDescent: steps of one size over the network, and what the standard error of α needs."""

import numpy as np
import pytest
import torch
from torch import nn

from repnas_mm.engine.gate_descent import GateDescent


def descend(gradients, steps=None, sizes=(3, 2)):
    """Parameters and optimizer after one step a row of ``gradients`` (T, sum of sizes)."""
    alphas = [nn.Parameter(torch.zeros(size)) for size in sizes]
    optimizer = GateDescent(alphas, steps or len(gradients))
    for row in torch.as_tensor(gradients, dtype=torch.float32):
        for alpha, grad in zip(alphas, row.split(list(sizes))):
            alpha.grad = grad.clone()
        optimizer.step()
    return torch.cat([alpha.detach() for alpha in alphas]), optimizer


def random_gradients(steps):
    return np.random.default_rng(0).standard_normal((steps, 5))


def test_a_step_is_the_gradient_over_its_root_mean_square_over_the_network():
    gradients = random_gradients(20)
    alpha, _ = descend(gradients)
    unit = gradients / np.sqrt((gradients**2).mean(1, keepdims=True))
    np.testing.assert_allclose(alpha.numpy(), -unit.mean(0), rtol=1e-5, atol=1e-6)


def test_a_loss_scale_does_not_matter():
    gradients = random_gradients(20)
    torch.testing.assert_close(descend(gradients)[0], descend(1024 * gradients)[0])


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), None])
def test_steps_that_say_nothing_are_skipped(bad):
    gradients = random_gradients(4)
    with_bad = np.insert(gradients, 2, 0.0, axis=0)
    if bad is not None:
        with_bad[2, 1] = bad
    assert torch.equal(descend(gradients, steps=4)[0], descend(with_bad, steps=4)[0])


@pytest.mark.parametrize('steps', [2, 5, 16, 37, 160])
def test_the_path_is_cut_into_at_most_sixteen_equal_stretches(steps):
    gradients = random_gradients(steps)
    path = np.cumsum(-gradients / np.sqrt((gradients**2).mean(1, keepdims=True)), 0) / steps
    count = min(steps, 16)
    ends = np.array([round(steps * i / count) for i in range(count + 1)])
    increments = np.diff(np.concatenate([np.zeros((1, 5)), path])[ends], axis=0)
    squares, stretches = descend(gradients)[1].path()
    assert stretches == count
    np.testing.assert_allclose(squares, (np.diff(increments, axis=0) ** 2).sum(0), rtol=1e-4)


def test_a_reloaded_state_goes_on_bit_for_bit():
    gradients = random_gradients(40)
    whole, expected = descend(gradients)
    alpha, half = descend(gradients[:21], steps=40)
    alphas = [nn.Parameter(part.clone()) for part in alpha.split([3, 2])]
    resumed = GateDescent(alphas, 40)
    resumed.load_state_dict(half.state_dict())
    for row in torch.as_tensor(gradients[21:], dtype=torch.float32):
        for part, grad in zip(alphas, row.split([3, 2])):
            part.grad = grad.clone()
        resumed.step()
    assert torch.equal(torch.cat([part.detach() for part in alphas]), whole)
    assert np.array_equal(resumed.path()[0], expected.path()[0])
