"""Forwards with ``mode='tensor'`` of models that hold a network twice, or take several views of an image."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmpretrain.models import BaseSelfSupervisor
from torch import nn

from ..search.copies import find_copied_networks


def calls_of(model: nn.Module, inputs: Mapping | Sequence) -> list[tuple[nn.Module, Any, Any]]:
    """`tensor_calls` of what ``model.data_preprocessor`` gives, which is a mapping with most and a tuple with some."""
    return tensor_calls(model, **inputs) if isinstance(inputs, Mapping) else tensor_calls(model, *inputs)


def tensor_calls(model: nn.Module, inputs, data_samples=None) -> list[tuple[nn.Module, Any, Any]]:
    """Networks of ``model`` to call with ``mode='tensor'``, each with its inputs and data samples.

    Args:
        model: Itself the one network, but for mmdet's semi-supervised detectors, which hold two.
        inputs, data_samples: As ``model.data_preprocessor`` gives them. Of several views of an image (self-supervised
            learning), or of several sets of images (semi-supervised), the first is taken.
    """
    if isinstance(model, BaseSelfSupervisor) and isinstance(inputs, list | tuple):
        inputs = inputs[0]
    if not hasattr(model, 'semi_test_cfg'):
        return [(model, inputs, data_samples)]
    if isinstance(inputs, Mapping):
        name = next(iter(inputs))
        inputs, data_samples = inputs[name], data_samples and data_samples[name]
    return [(detector, inputs, data_samples) for detector in (model.student, model.teacher)]


@contextmanager
def calling_copies(model: nn.Module) -> Iterator[list]:
    """Let a forward inside the ``with`` also call the copies of networks that it calls, with the same inputs.

    A momentum encoder has no part in ``mode='tensor'``, but is to be fused and to absorb as its twin does.

    Yields:
        List to which the outputs of those calls are added.
    """
    called: set[str] = set()
    outputs: list = []

    def call(name: str, other: str, args, kwargs) -> None:
        called.add(name)
        if other not in called:
            outputs.append(model.get_submodule(other)(*args, **kwargs))

    pairs = find_copied_networks(model)
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, args, kwargs, __, name=name, other=other: call(name, other, args, kwargs), with_kwargs=True
        )
        for pair in pairs.items()
        for name, other in (pair, pair[::-1])
        if name and other
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
