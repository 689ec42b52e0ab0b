"""Seconds of several calls, measured side by side."""

import time
from collections.abc import Callable, Mapping

import torch


def take_turns(
    runs: Mapping[str, Callable], min_rounds: int, max_rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Name -> seconds of each call: one round to warm up, then rounds in which every run has its turn.

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


def _seconds(run: Callable) -> float:
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def wait() -> None:
    """Until the GPU has done all that it was told to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
