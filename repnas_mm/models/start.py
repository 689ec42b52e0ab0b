"""The scales γ with which the branches of a block start; initializations of MMEngine set them to 1, as for any BN."""

import math

import torch

#: Part of the variance of a block's output that `skip` has at the start. Of 1/3 (what RepVGG has), 1/2 and 0.7, a
#: 40-layer network of all branches learned fastest with 0.7: mean loss of its first 200 steps 1.745 with 1/3, 1.586
#: with 0.7. γ hardly moves while all branches train, so that the share is still there at the cut.
SKIP_SHARE = 0.7


@torch.no_grad()
def let_skip_lead(block) -> bool:
    """Set γ of all active branches but `skip` to √((1/s - 1)/(n - 1)), s = `SKIP_SHARE`, in place.

    Behind a BN each of the n branches has the variance γ², so that `skip` with γ = 1 has the part s of their sum. Only
    for a block in search form that has a skip and weights of its own for each branch, whose γ are all 1 and which
    nothing was loaded into.

    Returns:
        True if the block was such a one.
    """
    norms = {name: block.branches[name].norm for name in block.active_branches}
    if 'skip' not in norms or len(norms) < 2 or block.share_weights or block.alpha is None or not _is_reset(block):
        return False
    for name, norm in norms.items():
        if name != 'skip':
            norm.weight.fill_(math.sqrt((1 / SKIP_SHARE - 1) / (len(norms) - 1)))
    return True


@torch.no_grad()
def start_as_mean(block) -> None:
    """Set the γ of branches that share a kernel to 1 / number of branches, in place, where they are all 1.

    What crops of one kernel compute is alike and adds up: the block starts as their mean, not their sum. Nothing
    changes in a block that something was loaded into.
    """
    if block.kernel is not None and _is_reset(block):
        for branch in block.branches.values():
            branch.norm.weight.fill_(1 / len(block.branches))


@torch.no_grad()
def silence_inactive(block) -> None:
    """Set γ and β of all inactive branches to 0, in place: once they are active, the block still computes the same.

    So that what has left in an earlier search, and is in `kxk` since, does not count twice in the next one.
    """
    for name in block.branches.keys() - set(block.active_branches):
        norm = block.branches[name].norm
        norm.weight.zero_()
        norm.bias.zero_()


def _is_reset(block) -> bool:
    return not block.loaded and all((branch.norm.weight == 1).all() for branch in block.branches.values())
