"""Ordinary convolutions of a built model into ODBB blocks, and back where a block would be wrong."""

from collections import defaultdict

from mmcv.cnn.bricks import Conv2d, Conv2dAdaptivePadding
from mmengine.logging import print_log
from torch import nn

from .convolution_arguments import ConvolutionArguments
from .odbb_conv import ODBBConv2d

# exactly these, because a subclass computes something else
_CONVOLUTIONS = (nn.Conv2d, Conv2d, Conv2dAdaptivePadding)


def to_odbb(model: nn.Module, **block) -> nn.Module:
    """Replace every eligible convolution of ``model`` by a freshly initialized `ODBBConv2d`, in place.

    Left as they are: what `eligible` excludes, other classes of convolution, and convolutions used under several
    names. To keep what a trained model computes, load its state dict afterwards.

    Args:
        model: Any module but a convolution itself.
        **block: Arguments of `ODBBConv2d` beyond those of a convolution: genotype, share_weights, norm_cfg, with_cp,
            deploy.

    Returns:
        ``model``.

    Raises:
        ValueError: if no convolution is eligible.
    """
    names = _names_by_module(model)
    for conv, used in names.items():
        if len(used) > 1 and _is_eligible(conv):
            _log_shared(used)
    found = False
    for parent in list(model.modules()):
        for name, conv in list(parent._modules.items()):
            if len(names.get(conv, ())) != 1 or not _is_eligible(conv):
                continue
            found = True
            adaptive = isinstance(conv, Conv2dAdaptivePadding)
            new = ODBBConv2d(**ConvolutionArguments.of(conv)._asdict(), adaptive_padding=adaptive, **block)
            new.requires_grad_(conv.weight.requires_grad).train(conv.training)
            parent._modules[name] = new
    if not found:
        raise ValueError(f'{type(model).__name__} has no eligible convolution (K x K, K odd, at least 3) for a block.')
    return model


def leave_shared_plain(model: nn.Module) -> None:
    """Turn blocks that a model uses under several names back into ordinary convolutions, in place, and log it.

    Heads such as RTMDet's share a convolution between pyramid levels but not the norms behind it, because the levels'
    statistics differ; the BNs inside one shared block would mix them.
    """
    for module, names in _names_by_module(model).items():
        if len(names) > 1 and isinstance(module, ODBBConv2d):
            _log_shared(names)
            module.switch_to_plain()


def _is_eligible(module: nn.Module) -> bool:
    return type(module) in _CONVOLUTIONS and ConvolutionArguments.of(module).eligible()


def _names_by_module(model: nn.Module) -> dict[nn.Module, list[str]]:
    names = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    return names


def _log_shared(names: list[str]) -> None:
    print_log(
        f"Convolution '{names[0]}' is used under {len(names)} names (such as '{names[1]}'), whose statistics differ; "
        'it stays plain.',
        'current',
    )
