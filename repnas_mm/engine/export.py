"""Write the result of a search: the genotype, its picture and the multi-branch subnet."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config
from torch import nn

from ..search.genotype import Genotype
from ..visualization import plot_genotype, save_figure
from .checkpoint import save_subnet


def export_search(model: nn.Module, folder: Path, cfg: Config, source: Mapping, **meta) -> Genotype:
    """Write into ``folder`` what the active branches of ``model``, in search form, have come to be.

    Args:
        model: Not changed.
        folder: Gets genotype.json, genotype.png, genotype.svg, subnet.pth and subnet.py.
        cfg: Config of the search.
        source: Origin of the genotype, for people to read.
        **meta: For the subnet checkpoint.
    """
    genotype = Genotype.from_model(model, dict(source))
    genotype.dump(folder / 'genotype.json')
    save_figure(plot_genotype(genotype), folder / 'genotype')
    subnet = deepcopy(model)
    genotype.apply_to(subnet)
    save_subnet(subnet, folder / 'subnet.pth', cfg, genotype, **meta)
    return genotype
