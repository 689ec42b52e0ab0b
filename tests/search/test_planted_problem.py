"""Algorithm 1 on a problem whose answer is known: a teacher that computes a planted genotype.

Student and teacher share fixed random weights (BN in eval mode, so every branch is a fixed function, and once with
batch statistics, as in a training). Only alpha learns, from the distance between the outputs of the two networks; the
right answer is the teacher's own branches.

Both outputs are standardized over the batch first, as the classifier behind a real network does not mind the scale.
With the plain distance the search fails: while the answer is wrong, a smaller output is closer to the teacher's than
a large one, so every kept branch is pushed down, right or wrong, and the noise decides.
"""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repnas_mm.models import ODBBlock
from repnas_mm.search import BranchSearch, Genotype, find_blocks, find_candidates, space_size

PLANTED = Genotype(
    {
        '0': ('1x1', '1x1_avg', 'kx1'),
        '1': ('1xk', 'skip'),
        '2': ('kxk', '1x1_kxk', 'skip'),
        '3': ('kxk', '1x1_avg', '1xk'),
    },
    share_weights=False,
)
CHANNELS = 8


def fixed_network() -> nn.Sequential:
    """Blocks whose branches have fixed weights of their own and outputs of comparable size; only alpha may learn."""
    net = nn.Sequential(*(ODBBlock(CHANNELS, CHANNELS, share_weights=False) for _ in PLANTED))
    x = torch.randn(256, CHANNELS, 8, 8)
    with torch.no_grad():
        for block, kept in zip(net, PLANTED.values()):
            norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
            for norm in norms:
                norm.momentum = None  # running statistics become those of the one batch that follows
            block(x)
            for norm in norms:
                norm.weight.uniform_(0.7, 1.3)
                norm.bias.uniform_(-0.3, 0.3)
            # the next block's statistics are those of the teacher's features
            teacher = deepcopy(block).eval()
            teacher.switch_to_subnet(kept)
            x = teacher(x)
    return net.eval()


def standardized(y: Tensor) -> Tensor:
    return F.batch_norm(y, None, None, training=True)


def search_for(teacher: nn.Module, net: nn.Module, seed: int, steps: int = 300) -> BranchSearch:
    """Algorithm 1: draw the noise, keep C by global rank, step alpha on the loss of what was kept."""
    search = BranchSearch(find_blocks(net), num_branches=PLANTED.num_branches, seed=seed)
    optimizer = torch.optim.Adam(search.alphas, lr=0.1, betas=(0.5, 0.999))
    for _ in range(steps):
        x = torch.randn(8, CHANNELS, 6, 6)
        with torch.no_grad():
            target = standardized(teacher(x))
        search.apply(*search.sample())
        net.zero_grad()
        F.mse_loss(standardized(net(x)), target).backward()
        search.read_gradients()
        optimizer.step()
    return search


@pytest.mark.parametrize('seed, batch_statistics', [(0, False), (1, False), (2, False), (0, True)])
def test_the_search_finds_the_planted_genotype(seed, batch_statistics):
    torch.manual_seed(seed)
    net = fixed_network().train(batch_statistics)
    teacher = deepcopy(net)
    PLANTED.apply_to(teacher)
    search = search_for(teacher, net, seed)
    search.apply(search.best())
    found = Genotype.from_model(net)
    assert dict(found) == dict(PLANTED)


def test_chance_does_not_find_it():
    candidates = find_candidates(fixed_network())
    draws = [
        Genotype.from_preset('random', candidates, num_branches=PLANTED.num_branches, seed=seed).overlap(PLANTED)
        for seed in range(500)
    ]
    assert sum(draws) / len(draws) < 0.3 and max(draws) < 0.8
    assert space_size(candidates, PLANTED.num_branches) > 10**7
