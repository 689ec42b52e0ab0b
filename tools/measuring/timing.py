"""Seconds of several calls, measured side by side."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from repnas_mm.engine.fusing import exact_float32

#: Rounds of `medians` go on for so many seconds, within these numbers
SECONDS, MIN_ROUNDS, MAX_ROUNDS = 10.0, 3, 20


def measuring_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def describe(device: torch.device) -> str:
    """Name the device in words, with the number of threads if it is the CPU."""
    if device.type == 'cuda':
        return f'one {torch.cuda.get_device_name(device)}'
    threads = torch.get_num_threads()
    return f'a CPU ({platform.processor() or platform.machine()}), {threads} thread{"s" * (threads > 1)}'


def take_turns(
    runs: Mapping[str, Callable], min_rounds: int, max_rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Time every run once a round, after one round to warm up; returns name -> seconds of each call.

    In turns, so that whatever else the machine does slows all of them alike. Rounds go on until ``seconds`` are over,
    within the two numbers.
    """
    for run in runs.values():
        _seconds(run)
    measured = {name: [] for name in runs}
    start = time.monotonic()
    for done in range(max_rounds):
        if done >= min_rounds and time.monotonic() - start > seconds:
            break
        for name, run in runs.items():
            measured[name].append(_seconds(run))
    return measured


def medians(runs: Mapping[str, Callable]) -> dict[str, float]:
    """Name -> median seconds of a call."""
    measured = take_turns(runs, MIN_ROUNDS, MAX_ROUNDS, SECONDS)
    return {name: statistics.median(seconds) for name, seconds in measured.items()}


def latencies(
    models: Mapping[str, nn.Module],
    batch_size: int,
    image_size: int,
    channels_last: bool,
    in_channels: int | Mapping[str, int] = 3,
    device: torch.device | str = 'cpu',
) -> dict[str, float]:
    """Name -> median seconds of a forward in eval mode, in float32 without TF32.

    Args:
        models: Moved to the device and memory format, in place.
        batch_size: Images of a forward.
        image_size: Their side, in pixels.
        channels_last: Keep weights and images as NHWC instead of PyTorch's usual NCHW.
        in_channels: Of the images; the same for all models, or name -> channels.
        device: Where to measure.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    channels = {name: in_channels if isinstance(in_channels, int) else in_channels[name] for name in models}
    images = {
        c: torch.rand(batch_size, c, image_size, image_size).to(device, memory_format=memory_format)
        for c in set(channels.values())
    }
    runs = {
        name: partial(model.to(device, memory_format=memory_format).eval(), images[channels[name]])
        for name, model in models.items()
    }
    with torch.inference_mode(), exact_float32():
        return medians(runs)


def _seconds(run: Callable) -> float:
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def wait() -> None:
    """Return when the GPU has done all that it was told to; at once without one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
