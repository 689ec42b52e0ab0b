"""The trainings that items of the paper have in common, under names that let items share them."""

from collections.abc import Iterable
from statistics import fmean

from measuring.reports import Mean
from repnas_mm.models import ODBBBackbone
from repnas_mm.search import Genotype

from .scales import Scale
from .training import Result, Training

ACCURACY = 'accuracy/top1'
#: Blocks made by hand, all special cases of the search space -> their branches in VGG-16 and in RepVGG-A0
HAND_MADE = {'plain': (13, 22), 'acb': (39, 66), 'dbb': (52, 88), 'repvgg': (35, 61)}
#: Ends of the names of configs whose lr is that of several GPUs
SEVERAL_GPUS = ('_imagenet', 'centernet_resnet18', 'centernet_resnet101', 'centernet_odbb_a0', 'centernet_odbb_b3')


def network(config: str, seed: int, tag: str = '', **options) -> Training:
    """The training of ``config`` with a seed. Options have ``__`` for dots; ``tag`` tells in the name what they do.

    A training has one GPU, so the lr of configs made for several is scaled with the batch size.
    """
    options = {key.replace('__', '.'): value for key, value in options.items()}
    if config.endswith(SEVERAL_GPUS):
        options['auto_scale_lr.enable'] = True
    return Training(f'{config}{tag and "-" + tag}-seed{seed}', config, {'randomness.seed': seed, **options})


def cosine(epochs: int) -> dict:
    """Options of a training of so many epochs, whose learning rate falls from the first step on."""
    scheduler = dict(type='CosineAnnealingLR', T_max=epochs, end=epochs, by_epoch=True, convert_to_iter_based=True)
    return dict(train_cfg__max_epochs=epochs, param_scheduler=dict(_delete_=True, **scheduler))


def search(pattern: str, num_branches: int, seed: int) -> Training:
    """The search of ``pattern``'s networks with C = ``num_branches``."""
    return network(pattern.format('odbb'), seed, f'c{num_branches}', custom_hooks__0__num_branches=num_branches)


def from_scratch(pattern: str, genotype: Genotype, seed: int, tag: str) -> Training:
    """A genotype, trained on the whole schedule as hand-made networks are; ``tag`` says which one it is."""
    options = dict(_delete_=True, **genotype.to_dict())
    return network(pattern.format('plain'), seed, tag, model__backbone__genotype=options)


def arch_network(scale: Scale, method: str, arch: str, seed: int) -> Training:
    """``odbb`` or ``repvgg`` of an arch, at this scale's width (Table 4)."""
    if scale.base_channels == 64:
        return network(f'{method}_{arch.lower()}_{scale.name}', seed)
    settings = ODBBBackbone.arch_settings[arch]
    channels = int(scale.base_channels * 8 * settings['width_factor'][-1])
    options = dict(model__backbone__arch=arch, model__head__in_channels=channels)
    if method == 'odbb':
        options['custom_hooks__0__num_branches'] = repvgg_branches(arch)
    return network(f'{method}_a0_{scale.name}', seed, arch.lower(), **options)


def repvgg_branches(arch: str) -> int:
    """Branches of RepVGG: three a layer, two where the stride is 2, which is in the stem and at each stage's start."""
    stages = ODBBBackbone.arch_settings[arch]['num_blocks']
    return 3 * sum(stages) - len(stages) + 2


def branches_of(scale: Scale, method: str) -> int:
    """Branches of a hand-made network of Figure 4."""
    return HAND_MADE[method][0 if scale.ablation.startswith('vgg16') else 1]


def accuracy(results: Iterable[Result]) -> Mean:
    """Top-1 of the fused networks of several seeds, in %."""
    return Mean(tuple(result.metrics[ACCURACY] for result in results))


def cpu_seconds(results: Iterable[Result]) -> float | None:
    """Seconds of one training, a mean over seeds, or None if one was interrupted."""
    seconds = [result.cpu_seconds for result in results]
    return None if None in seconds else fmean(seconds)
