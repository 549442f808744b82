"""Measured time of a call, on CPU or an accelerator."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["measure_ms", "race_ms"]


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
    return statistics.median(race_ms([call], device, runs=runs, warmup=warmup, time_limit_s=time_limit_s)[0])


def race_ms(
    calls: Sequence[Callable[[], Any]],
    device: torch.device,
    *,
    runs: int = 7,
    warmup: int = 1,
    time_limit_s: float = 2.0,
) -> list[list[float]]:
    """Milliseconds of calls that take turns, so that what else the machine does falls on all of them alike.

    Args:
        calls: what is measured.
        device: as in `measure_ms`.
        runs: at most this many rounds.
        warmup: untimed rounds before them.
        time_limit_s: no further round is started after this long.

    Returns:
        For each call its times, one for each round; at least one.

    Example:
        >>> import torch
        >>> few, many = race_ms([lambda: sum(range(9)), lambda: sum(range(99999))], torch.device("cpu"))
        >>> len(few) == len(many), min(few) < min(many)
        (True, True)
    """
    for _ in range(warmup):
        for call in calls:
            call()
    times: list[list[float]] = [[] for _ in calls]
    begun = time.perf_counter()
    while len(times[-1]) < runs and (not times[-1] or time.perf_counter() - begun < time_limit_s):
        for call, into in zip(calls, times, strict=True):
            _synchronise(device)
            start = time.perf_counter()
            call()
            _synchronise(device)
            into.append((time.perf_counter() - start) * 1e3)
    return times


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
