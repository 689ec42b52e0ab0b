"""Random search as in the paper, 4.1: draw genotypes, train each shortly, train the best in full."""

from .lab import Lab
from .scales import Scale
from .shared_trainings import ACCURACY, cosine, network
from .training import Training

DRAWS = 25


def draw_and_choose(lab: Lab, scale: Scale, pattern: str, num_branches: int, epochs: int) -> int:
    """The best draw's seed, by the accuracy on held-out training images; the test set takes no part in the choice.

    Args:
        pattern: Of the networks' configs.
        epochs: Of each draw's training.
    """
    config = pattern.format('random')
    options = dict(
        model__backbone__genotype__num_branches=num_branches,
        **cosine(epochs),
        train_dataloader__dataset__indices=scale.trained_on,
    )
    for loader in ('val_dataloader', 'test_dataloader'):
        options |= {
            f'{loader}__dataset__split': 'train',
            f'{loader}__dataset__test_mode': False,
            f'{loader}__dataset__indices': -scale.held_out,
        }
    trainings = [
        network(config, 0, f'c{num_branches}-draw{draw}-short', model__backbone__genotype__seed=draw, **options)
        for draw in range(DRAWS)
    ]
    results = lab.run(trainings)
    return max(range(DRAWS), key=lambda draw: results[trainings[draw]].metrics[ACCURACY])


def drawn_network(pattern: str, num_branches: int, draw: int, seed: int) -> Training:
    """The full training of one draw."""
    return network(
        pattern.format('random'),
        seed,
        f'c{num_branches}-draw{draw}',
        model__backbone__genotype__num_branches=num_branches,
        model__backbone__genotype__seed=draw,
    )
