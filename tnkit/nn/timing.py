"""Measured time of a call, on CPU or an accelerator."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["measure_ms"]


def measure_ms(
    call: Callable[[], Any], device: torch.device, *, runs: int = 7, warmup: int = 1, time_limit_s: float = 2.0
) -> float:
    """The median milliseconds of one call.

    Args:
        call: what is measured; its result is dropped.
        device: of the work; CUDA and MPS are synchronised before the clock is read.
        runs: at most this many timed calls.
        warmup: untimed calls before them.
        time_limit_s: no further timed call is started after this long.

    Example:
        >>> import torch
        >>> measure_ms(lambda: sum(range(100)), torch.device("cpu")) > 0
        True
    """
    for _ in range(warmup):
        call()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < runs and (not times or time.perf_counter() - begun < time_limit_s):
        _synchronise(device)
        start = time.perf_counter()
        call()
        _synchronise(device)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
