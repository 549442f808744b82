"""How small a format can be at the ranks that all cuts need: a bound before anything is fitted.

Between two sets of modes the rank of a network is at most the product of the bonds that its nodes leave open, however
the nodes are put on the two sides; so in logarithms each cut is a linear condition on the ranks. The size of a node is
the exponential of a linear form, which its tangents bound from below, and the least sum of them is a linear program.
Tangents are added where it ends until it moves no more (cutting planes, Kelley 1960, doi:10.1137/0108053), and what it
gives is a bound after any of these rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import exp, inf, log, prod

import numpy as np
import scipy

from tnkit.formats import Layout

__all__ = ["least_size"]

_ROUNDS = 20
_CONDITIONS = 20_000


def least_size(layout: Layout, needs: Mapping[int, int]) -> float:
    """A number of entries below which the format cannot have the ranks that the cuts need.

    Args:
        layout: of a format over the modes whose cuts are known.
        needs: the rank of each unfolding, by the set of modes on one side, a bit mask.

    Returns:
        entries; 0 where the format splits or merges modes, or has too many nodes to look at; infinity where it never
        has such ranks.

    Cost:
        milliseconds.

    Example:
        >>> from tnkit.formats import CPSpec, TuckerSpec
        >>> needs = {1: 2, 2: 4, 3: 2}
        >>> round(least_size(CPSpec().layout((9, 9, 9)), needs))  # rank 4
        112
        >>> round(least_size(TuckerSpec().layout((9, 9, 9)), needs))  # ranks 2, 4 and 2
        88
    """
    topology, bonds = layout.topology, layout.bonds
    if layout.tensorization is not None or not bonds:
        return 0.0
    stored = [k for k, constant in enumerate(topology.constants) if constant is None]
    shapes = layout.shapes((1,) * len(bonds))
    own = np.array([prod(shapes[k]) for k in stored], dtype=float)
    powers = np.array([[topology.inputs[k].count(label) for label in bonds] for k in stored], dtype=float)
    conditions = _conditions(layout, needs)
    if conditions is None:
        return 0.0
    rows, least = conditions
    count, width = len(bonds), len(bonds) + len(stored)
    cost = np.concatenate([np.zeros(count), np.ones(len(stored))])
    limits = [(0.0, log(cap)) for cap in layout.caps] + [(0.0, inf)] * len(stored)
    tangents, sides = list[np.ndarray[tuple[int], np.dtype[np.float64]]](), list[float]()
    at, bound = np.zeros(count), 0.0
    for _ in range(_ROUNDS):
        for k in range(len(stored)):  # z_k ≥ size at the point + gradient · (y − point)
            size = own[k] * exp(float(powers[k] @ at))
            line = np.zeros(width)
            line[:count], line[count + k] = size * powers[k], -1.0
            tangents.append(line)
            sides.append(size * (float(powers[k] @ at) - 1.0))
        # SciPy loads its solvers here, not when tnkit is imported
        found = scipy.optimize.linprog(
            cost,
            A_ub=np.concatenate([np.pad(-rows, ((0, 0), (0, len(stored)))), np.array(tangents)]),
            b_ub=np.concatenate([-least, sides]),
            bounds=limits,
        )
        if found.status == 2:
            return inf
        if found.x is None:
            return bound
        done = found.fun <= bound * (1 + 1e-4)
        bound, at = max(bound, float(found.fun)), found.x[:count]
        if done:
            break
    return bound * (1 - 1e-6)


def _conditions(
    layout: Layout, needs: Mapping[int, int]
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]] | None:
    """Σ log rank over the bonds between two sides ≥ log need, for every cut and every way to put nodes on the sides."""
    topology, bonds = layout.topology, layout.bonds
    modes = {label: k for k, label in enumerate(topology.output)}
    held = [[modes[label] for label in labels if label in modes] for labels in topology.inputs]
    others = list(dict.fromkeys(label for labels in topology.inputs for label in labels))
    rows: dict[tuple[bool, ...], float] = {}
    for mask, need in needs.items():
        choices = []
        for mine in held:
            sides = sorted({mask >> k & 1 for k in mine})
            choices.append(sides if len(sides) == 1 else [0, 1])
        if prod(map(len, choices)) * len(needs) > _CONDITIONS:
            return None
        for side in product(*choices):
            open_legs = 0.0
            crossing = set[str]()
            for label in others:
                on = {side[k] for k in topology.nodes_of(label)}
                if label in modes:
                    on.add(mask >> modes[label] & 1)
                if len(on) == 2:
                    crossing.add(label)
                    open_legs += 0.0 if label in bonds else log(layout.sizes[label])
            key = tuple(label in crossing for label in bonds)
            rows[key] = max(rows.get(key, 0.0), log(need) - open_legs)
    kept = {key: value for key, value in rows.items() if value > 0}
    return np.array(list(kept), dtype=float).reshape(len(kept), len(bonds)), np.array(list(kept.values()))
