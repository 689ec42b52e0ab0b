"""α steps where the weights step, by the gradients that these have then."""

import pytest
import torch

from repnas_mm.engine.alpha_optimizer import AlphaOptimizer
from repnas_mm.models import ODBBlock
from repnas_mm.search import BranchSearch

IMAGES = torch.randn(3, 2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class Training:
    """A block, the optimizer of its weights and that of α: plain descent with a learning rate of 1."""

    def __init__(self, optimizer=torch.optim.SGD, **kwargs):
        torch.manual_seed(0)
        self.block = ODBBlock(4, 4)
        self.optimizer = optimizer(self.block.parameters(), lr=0.1, **kwargs)
        self.search = BranchSearch({'block': self.block}, num_branches=5)
        self.alpha = AlphaOptimizer(self.search, self.optimizer, dict(type='SGD', lr=1))
        self.search.apply(*self.search.sample())
        self.start = self.block.alpha.detach().clone()

    def loss(self, i=0):
        return (self.block(IMAGES[i]) - 0.3).square().sum()

    def moved(self):
        return self.block.alpha.detach() - self.start


def expected(*images):
    """How α has to move after backward passes for these images."""
    training = Training()
    for i in images:
        training.loss(i).backward()
    training.search.read_gradients()
    return -training.block.alpha.grad


def test_it_descends_along_the_gradients_in_front_of_the_step():
    training = Training(momentum=0.9, weight_decay=0.1)
    training.loss().backward()
    training.optimizer.step()
    torch.testing.assert_close(training.moved(), expected(0))
    assert training.moved().any() and training.alpha.moved and training.alpha.has_stepped is False  # SGD has no state
    assert training.block.alpha.grad is None


def test_gradients_that_add_up_make_one_step():
    training = Training()
    for i in range(3):
        training.loss(i).backward()
        assert not training.moved().any()
    training.optimizer.step()
    torch.testing.assert_close(training.moved(), expected(0, 1, 2))


def test_clipping_comes_first():
    training = Training()
    training.loss().backward()
    norm = torch.nn.utils.clip_grad_norm_(training.block.parameters(), 1e-2)
    training.optimizer.step()
    torch.testing.assert_close(training.moved(), expected(0) * 1e-2 / norm, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('unscaled', [False, True])
def test_a_loss_scale_is_divided_out(fused, unscaled):
    training, scaler = Training(fused=fused), torch.amp.GradScaler('cpu', init_scale=2.0**10)
    scaler.scale(training.loss()).backward()
    if unscaled:
        scaler.unscale_(training.optimizer)
    scaler.step(training.optimizer)
    torch.testing.assert_close(training.moved(), expected(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('fused', [False, True])
def test_it_rests_where_a_scaler_skips_the_weights(fused):
    training, scaler = Training(fused=fused), torch.amp.GradScaler('cpu', init_scale=2.0**10)
    scaler.scale(training.loss()).backward()
    training.block.branches['kxk'].weight.grad[0, 0, 0, 0] = float('inf')
    scaler.step(training.optimizer)
    assert not training.moved().any() and not training.alpha.moved


def test_it_rests_without_noise_to_learn_from():
    training = Training()
    training.search.apply(training.search.best())
    training.loss().backward()
    training.optimizer.step()
    assert not training.moved().any() and not training.alpha.moved


def test_a_closure_is_refused():
    training = Training()
    with pytest.raises(ValueError, match=r'call backward first, and step\(\) without a closure'):
        training.optimizer.step(training.loss)
    with pytest.raises(ValueError, match=r'call backward first, and step\(\) without a closure'):
        training.optimizer.step(closure=training.loss)


def test_alpha_leaves_the_groups_of_the_main_optimizer_which_stay():
    torch.manual_seed(0)
    block = ODBBlock(4, 4)
    groups = [{'params': [p], 'lr': 0.1} for p in block.parameters()]
    optimizer = torch.optim.SGD(groups)
    AlphaOptimizer(BranchSearch({'block': block}, 5), optimizer, dict(type='SGD', lr=1))
    assert len(optimizer.param_groups) == len(groups)
    assert all(p is not block.alpha for group in optimizer.param_groups for p in group['params'])
