"""Faster: up to which size each layer is measured faster than the dense one it replaces.

Fewer multiplications are not always less time: two thin products beside a gather can take longer than one that the
machine is built for. The larger a layer's factors, the longer they take, so the break-even is found by bisection over
its sizes, once for all layers of one shape. But time rises by steps and not always, and clocks are not exact: what a
plan then takes is measured once more, longer, and what loses is not taken again.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Sequence
from typing import TypeAlias

import numpy as np
from torch import nn

from tnkit.errors import BudgetError
from tnkit.nn.build import build, example_input, forwards_ms
from tnkit.nn.choice import Choice
from tnkit.nn.clock import shape_key
from tnkit.nn.plan import Outcome
from tnkit.nn.specs import Ints

__all__ = ["Race", "confirmed", "faster_rows", "measured"]

#: The time of a module on the input that calibration saw, as a share of the time of the layer that it replaces; the
#: number of rounds that they take turns.
Race: TypeAlias = Callable[[Choice, nn.Module, int], float]
#: A layer counts as faster if it takes at most this share of the dense one's time, and is aimed to take less.
SHARE, AIM = 0.95, 0.92
#: Rounds for a step of the bisection, and for what a plan takes; a round that many plans may be asked for.
ROUNDS, SURE, PLANS = 7, 25, 8
#: In seconds, for all rounds of one layer.
LIMIT_S = 0.4


def measured(choice: Choice, module: nn.Module, rounds: int) -> float:
    """By the fastest calls or by the medians, whichever says more; both take turns on random input as it was seen."""
    assert choice.seen is not None
    x = example_input(choice.weight, choice.seen.shape, choice.seen.dtype)
    dense, small = forwards_ms([choice.item.layer, module], x, runs=rounds, time_limit_s=LIMIT_S)
    return max(min(small) / min(dense), statistics.median(small) / statistics.median(dense))


def faster_rows(choices: Sequence[Choice], race: Race = measured) -> tuple[Ints, ...]:
    """For each layer the rows of its grid at which it is faster than dense; all of them where no input was seen.

    Args:
        choices: calibrated.
        race: how long a layer takes.

    Cost:
        A fit and a few timed calls for each step of a bisection, for each shape of layer and input.
    """
    known: dict[Hashable, Ints] = {}
    found = []
    for choice in choices:
        key = shape_key(choice)
        if key is None:
            found.append(np.arange(len(choice.params)))
            continue
        if key not in known:
            known[key] = _rows(choice, race)
        found.append(known[key])
    return tuple(found)


def confirmed(
    plan: Callable[[tuple[Ints, ...]], Outcome],
    choices: Sequence[Choice],
    race: Race = measured,
) -> Outcome:
    """A plan all of whose layers are measured faster once more, with the modules that it takes.

    Args:
        plan: makes one from the rows of each layer that may be taken.
        choices: calibrated.
        race: how long a layer takes.

    Returns:
        The first plan of which no layer loses. What loses is not taken again, nor what is larger and of its shape;
        after eight plans a layer that loses stays dense in the next one.

    Raises:
        BudgetError: the limits cannot be met by layers that are faster.

    Cost:
        That of `faster_rows`, a plan for each round, and some thirty timed calls for each shape and size in it.
    """
    allowed = list(faster_rows(choices, race))
    known: dict[Hashable, bool] = {}
    for attempt in range(PLANS + len(choices)):
        try:
            found = plan(tuple(allowed))
        except BudgetError as error:
            slow = sum(len(rows) == 0 for rows in allowed)
            raise BudgetError(
                f"{error} With only_faster=True {slow} of these {len(choices)} layer(s) are not faster at any size and "
                "stay dense, others may not be large: without it any size may be taken."
            ) from error
        lost = [k for k, row in enumerate(found.rows) if row >= 0 and not _wins(choices[k], row, found, known, race)]
        if not lost:
            break
        for k, choice in enumerate(choices):
            rivals = [choices[j].params[found.rows[j]] for j in lost if shape_key(choices[j]) == shape_key(choice)]
            if rivals:
                least = min(rivals) if attempt < PLANS else 0
                allowed[k] = allowed[k][choice.params[allowed[k]] < least]
    return found


def _wins(choice: Choice, row: int, found: Outcome, known: dict[Hashable, bool], race: Race) -> bool:
    """Whether this layer of a plan is faster; measured once for each shape and size."""
    shape = shape_key(choice)
    if shape is None:
        return True
    key = (shape, row)
    if key not in known:
        known[key] = race(choice, found.layers[choice.item.name], SURE) <= SHARE
    return known[key]


def _rows(choice: Choice, race: Race) -> Ints:
    order = np.argsort(choice.params, kind="stable")
    order = order[choice.params[order] < choice.dense_params]
    low, high = 0, len(order)  # those before low are faster, those from high on are not
    while low < high:
        middle = (low + high) // 2
        if race(choice, build(choice, int(order[middle])).module, ROUNDS) <= AIM:
            low = middle + 1
        else:
            high = middle
    return np.sort(order[:low])
