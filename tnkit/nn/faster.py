"""Faster: up to which size each layer is measured faster than the dense one it replaces.

Fewer multiplications are not always less time: two thin products beside a gather can take longer than one that the
machine is built for. The larger a layer's factors, the longer they take, so the break-even is found by bisection over
its sizes, once for all layers of one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeAlias

import numpy as np
from torch import nn

from tnkit.nn.build import build, example_input, forward_ms
from tnkit.nn.choice import Choice
from tnkit.nn.specs import Ints

__all__ = ["Clock", "faster_rows", "measured"]

#: Milliseconds of a layer, or of the module that takes its place, on the input that calibration saw.
Clock: TypeAlias = Callable[[Choice, nn.Module], float]
#: A layer counts as faster if it takes at most this share of the dense one's time: clocks are not exact.
SHARE = 0.95


def measured(choice: Choice, layer: nn.Module) -> float:
    """The time of a layer on random input of the shape that was seen."""
    assert choice.seen is not None
    return forward_ms(layer, example_input(choice.weight, choice.seen.shape, choice.seen.dtype))


def faster_rows(choices: Sequence[Choice], clock: Clock = measured) -> tuple[Ints, ...]:
    """For each layer the rows of its grid at which it is faster than dense; all of them where no input was seen.

    Args:
        choices: calibrated.
        clock: how long a layer takes.

    Cost:
        A fit and a few timed calls for each step of a bisection, for each shape of layer and input.
    """
    known: dict[Hashable, Ints] = {}
    found = []
    for choice in choices:
        if choice.seen is None or not choice.seen.shape:
            found.append(np.arange(len(choice.params)))
            continue
        key = (type(choice.item.layer), choice.weight.shape, choice.weight.dtype, choice.seen.shape, choice.item.spec)
        if key not in known:
            known[key] = _rows(choice, clock)
        found.append(known[key])
    return tuple(found)


def _rows(choice: Choice, clock: Clock) -> Ints:
    limit = SHARE * clock(choice, choice.item.layer)
    order = np.argsort(choice.params, kind="stable")
    order = order[choice.params[order] < choice.dense_params]
    low, high = 0, len(order)  # those before low are faster, those from high on are not
    while low < high:
        middle = (low + high) // 2
        if clock(choice, build(choice, int(order[middle])).module) <= limit:
            low = middle + 1
        else:
            high = middle
    return np.sort(order[:low])
