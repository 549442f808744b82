"""Clock: what a layer takes at each of its sizes, measured; time is then a limit like parameters and FLOPs.

A layer is made at a few sizes, which take turns with the dense one; between these its time is read off a straight line
over the multiplications, never falling as they grow. Sizes that are not measured faster cost as much as the dense
layer, so that no plan gains by them. Layers of one shape, specification and input are timed once.

References:
    Yang et al., NetAdapt, arXiv 1804.03230 (measured tables of layers in place of proxies).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch import nn

from tnkit.nn.build import build, example_input, forwards_ms
from tnkit.nn.choice import Choice
from tnkit.nn.specs import AnyOf, Floats, Ints

__all__ = ["Curve", "Stopwatch", "curves", "raced", "shape_key"]

#: Milliseconds of the dense layer and of modules in its place, which take turns.
Stopwatch: TypeAlias = Callable[[Choice, list[nn.Module]], tuple[float, list[float]]]
#: Sizes that are timed, rounds of each, and the seconds that one layer may take.
SIZES, ROUNDS, LIMIT_S = 5, 9, 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What a layer takes.

    Attributes:
        ms: (K,) of each row of its grid.
        dense_ms: of the layer as it is.
    """

    ms: Floats
    dense_ms: float


def raced(choice: Choice, modules: list[nn.Module]) -> tuple[float, list[float]]:
    """Medians on random input of the shape that was seen."""
    assert choice.seen is not None
    x = example_input(choice.weight, choice.seen.shape, choice.seen.dtype)
    dense, *others = forwards_ms([choice.item.layer, *modules], x, runs=ROUNDS, time_limit_s=LIMIT_S)
    return statistics.median(dense), [statistics.median(times) for times in others]


def shape_key(choice: Choice) -> Hashable | None:
    """What decides the time of a layer, or None where no input was seen."""
    if choice.seen is None or not choice.seen.shape:
        return None
    return type(choice.item.layer), choice.weight.shape, choice.weight.dtype, choice.seen.shape, choice.item.spec


def curves(choices: Sequence[Choice], watch: Stopwatch = raced) -> tuple[Curve, ...]:
    """The measured time of every row of every layer; layers that no batch called take none.

    Args:
        choices: calibrated.
        watch: measures modules.

    Cost:
        Up to five fits and half a second for each shape of layer and input, and each format where several are tried.
    """
    known: dict[Hashable, Curve] = {}
    found = []
    for choice in choices:
        key = shape_key(choice)
        if key is None:
            found.append(Curve(np.zeros(len(choice.params)), 0.0))
            continue
        if key not in known:
            known[key] = _curve(choice, watch)
        found.append(known[key])
    return tuple(found)


def _curve(choice: Choice, watch: Stopwatch) -> Curve:
    work = _work(choice)
    ms, dense_ms = np.full(len(work), np.inf), 0.0
    for group in _groups(choice):
        sizes = _some(group, work, choice)
        modules: list[nn.Module] = [build(choice, row).module for row in sizes]
        dense_ms, times = watch(choice, modules)
        if sizes:
            rising = np.maximum.accumulate(times)
            ms[group] = np.interp(work[group], work[sizes], rising)
    return Curve(ms, dense_ms)


def _work(choice: Choice) -> Floats:
    """Multiplications of each row, or parameters where these are not known."""
    flops = choice.flops()
    return np.asarray(choice.params if flops is None else flops[0], dtype=np.float64)


def _groups(choice: Choice) -> list[Ints]:
    """Rows of one format each."""
    if not isinstance(choice.item.spec, AnyOf):
        return [np.arange(len(choice.params))]
    places = choice.grid.ranks[:, 0]
    return [np.flatnonzero(places == place) for place in np.unique(places)]


def _some(group: Ints, work: Floats, choice: Choice) -> list[int]:
    """Rows whose work grows by even ratios, each with more than the one before; none that is as large as the layer."""
    rows = group[choice.params[group] < choice.dense_params]
    rows = rows[np.argsort(work[rows], kind="stable")]
    if len(rows) == 0:
        return []
    aims = np.geomspace(max(work[rows[0]], 1.0), max(work[rows[-1]], 1.0), SIZES)
    picked = rows[np.minimum(np.searchsorted(work[rows], aims * (1 - 1e-12)), len(rows) - 1)]
    return [int(r) for k, r in enumerate(picked) if k == 0 or work[r] > work[picked[k - 1]]]
