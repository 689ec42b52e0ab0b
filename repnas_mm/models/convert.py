"""Ordinary convolutions of a built model into ODBB blocks."""

from mmcv.cnn.bricks import Conv2d, Conv2dAdaptivePadding
from torch import nn

from ..search.block import log_shared, names_by_module
from .convolution_arguments import ConvolutionArguments
from .odbb_conv import ODBBConv2d

# exactly these, because a subclass computes something else
_CONVOLUTIONS = (nn.Conv2d, Conv2d, Conv2dAdaptivePadding)


def to_odbb(model: nn.Module, **block) -> nn.Module:
    """Replace every eligible convolution of ``model`` by a freshly initialized `ODBBConv2d`, in place.

    Left as they are: convolutions that are not eligible (`ConvolutionArguments.eligible`), other classes of
    convolution (transposed, 1-D, 3-D, deformable), the layers that compute a deformable one's offsets (by their names),
    and convolutions used under several names. To keep what a trained model computes, load its state dict
    afterwards.

    Args:
        model: Any module but a convolution itself.
        **block: Arguments of `ODBBConv2d` beyond those of a convolution: genotype, share_weights, norm_cfg, with_cp,
            deploy.

    Returns:
        ``model``.

    Raises:
        ValueError: if no convolution is eligible.
    """
    names = names_by_module(model)
    for conv, used in names.items():
        if len(used) > 1 and _is_eligible(conv):
            log_shared(used)
    found = False
    for parent in list(model.modules()):
        for name, conv in list(parent._modules.items()):
            # offsets start at 0, and deformable convolutions reset them through the attributes of a convolution
            if len(names.get(conv, ())) != 1 or not _is_eligible(conv) or 'offset' in name:
                continue
            found = True
            adaptive = isinstance(conv, Conv2dAdaptivePadding)
            new = ODBBConv2d(**ConvolutionArguments.of(conv)._asdict(), adaptive_padding=adaptive, **block)
            new.requires_grad_(conv.weight.requires_grad).train(conv.training)
            parent._modules[name] = new
    if not found:
        raise ValueError(
            f'{type(model).__name__} has no eligible convolution (2-D, K x K, K odd, at least 3) for a block.'
        )
    return model


def _is_eligible(module: nn.Module) -> bool:
    return type(module) in _CONVOLUTIONS and ConvolutionArguments.of(module).eligible()
