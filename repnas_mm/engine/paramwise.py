"""Options of ``paramwise_cfg`` that look at a convolution, for the blocks that stand in its place."""

from typing import Any

from torch import nn

from ..search.block import is_convolution_block
from .param_groups import made_by_default
from .runner_models import unwrap


def reach_blocks(runner) -> None:
    """Give the kernels of depth-wise blocks the weight decay that ``dwconv_decay_mult`` means for them.

    MMEngine knows a depth-wise convolution by its class, and other parameters by parts of their names.

    Raises:
        ValueError: if a custom key names the weight of a convolution that is a block, and so nothing.
    """
    optimizer = made_by_default(runner)
    if optimizer is None:
        return
    options = (runner.cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}
    keys, factor = options.get('custom_keys', {}), options.get('dwconv_decay_mult')
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group['params']}
    # one that was a block when the optimizer was built may be plain now
    modules = unwrap(runner.model).named_modules()
    convolutions: list[tuple[str, Any]] = [
        (name, module) for name, module in modules if is_convolution_block(module) or isinstance(module, nn.Conv2d)
    ]
    for name, module in convolutions:
        own = {f'{name}.{parameter}': value for parameter, value in module.named_parameters()}
        for key in keys:
            if key in f'{name}.weight' and not any(key in full for full in own):
                raise ValueError(
                    f"Key '{key}' in custom_keys of paramwise_cfg names the weight of '{name}', which is an ODBB block "
                    f"with other parameters; leave out the end, as in '{name}'."
                )
        if factor is None or module.groups != module.in_channels:
            continue
        for full, parameter in own.items():
            if parameter.dim() == 4 and id(parameter) in groups and not any(key in full for key in keys):
                groups[id(parameter)]['weight_decay'] = optimizer.defaults['weight_decay'] * factor
