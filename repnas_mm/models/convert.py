"""Ordinary convolutions of a built model into ODBB blocks."""

from mmcv.cnn.bricks import Conv2d, Conv2dAdaptivePadding
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..search.block import is_deformable, log_plain, names_by_module
from .convolution_arguments import ConvolutionArguments
from .odbb_conv import ODBBConv2d

# exactly these, because a subclass computes something else
_CONVOLUTIONS = (nn.Conv2d, Conv2d, Conv2dAdaptivePadding)


def to_odbb(model: nn.Module, **block) -> nn.Module:
    """Replace every eligible convolution of ``model`` by a freshly initialized `ODBBConv2d`, in place.

    Left as they are: convolutions that are not eligible (`ConvolutionArguments.eligible`), other classes of
    convolution (transposed, 1-D, 3-D, deformable), and those of `log_plain`: used under several names, inside other
    re-parameterizable layers, or giving the offsets of deformable convolutions. To keep what a trained model computes,
    load its state dict afterwards.

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
    plain = log_plain(names, [module for module in names if _is_eligible(module)])
    found = False
    for parent in list(model.modules()):
        for name, conv in list(parent._modules.items()):
            if conv not in names or conv in plain or not _is_eligible(conv):
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


def is_convolution(module: nn.Module) -> bool:
    """True for a convolution of any kind that is no block."""
    return isinstance(module, _ConvNd) or (is_deformable(module) and hasattr(module, 'kernel_size'))


def obstacle(convolution: nn.Module) -> str:
    """Say why it cannot be a block, in a word or two; '' if nothing in itself hinders it."""
    if is_deformable(convolution):
        return 'deformable'
    if convolution.transposed:
        return 'transposed'
    if len(convolution.kernel_size) != 2:
        return f'{len(convolution.kernel_size)}-D'
    if type(convolution) not in _CONVOLUTIONS:
        return f'a {type(convolution).__name__}'
    return ConvolutionArguments.of(convolution).obstacle()


def _is_eligible(module: nn.Module) -> bool:
    return type(module) in _CONVOLUTIONS and not obstacle(module)
