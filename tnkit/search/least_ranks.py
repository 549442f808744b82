"""The least ranks on given bonds whose products over every cut are what the array needs there.

Bonds are raised one at a time, where that mends most of what all cuts lack for the numbers that it takes, then lowered
as far as all cuts admit. For many graphs at once, without a fit.

Example:
    >>> import numpy as np
    >>> every = np.ones((1, 3), dtype=bool)
    >>> [str(g) for g in least_ranks((9, 9, 9), {1: 2, 2: 4, 3: 2}, every, np.ones((1, 3)))]
    ['0-1:2 1-2:2']
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from math import inf
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tnkit.search.graph import Bond, Graph

__all__ = ["MOST_RANK", "least_nearby", "least_ranks"]

#: Rank of a bond, beyond which growth one by one takes too long.
MOST_RANK = 64
_NEAR = 3  # by how much ranks differ from the first ones that were found

Array: TypeAlias = "NDArray[Any]"


def least_ranks(
    shape: tuple[int, ...], ranks: dict[int, int], graphs: Array, start: Array | None = None
) -> list[Graph]:
    """For each graph small ranks whose products over every cut are at least those that are needed.

    Ranks are raised where that mends most for its size, then lowered as far as all cuts admit; for all graphs at once.

    Args:
        shape: of the modes.
        ranks: needed, by set of modes.
        graphs: (graphs, bonds), from `unicyclic` or any others: which bonds may have a rank above 1.
        start: (graphs, bonds), ranks to begin with and not to go below; by default 2 for every bond.

    Returns:
        Those that can meet all needs.
    """
    d = len(shape)
    bonds: list[Bond] = list(combinations(range(d), 2))
    masks = list(ranks)
    crossing = np.array([[(m >> a & 1) != (m >> b & 1) for a, b in bonds] for m in masks])  # (cuts, bonds)
    wanted = np.log([ranks[m] for m in masks]) - 1e-9
    holds = np.array([[k in bond for bond in bonds] for k in range(d)])  # (nodes, bonds)
    sizes = np.array(shape, dtype=float)
    logs = np.where(graphs, np.log(2.0), 0.0) if start is None else np.log(np.maximum(start, 1.0))

    def missing(logs: Array) -> Array:
        lack: Array = np.clip(wanted - logs @ crossing.T, 0, None)
        return lack

    def entries(logs: Array) -> Array:
        found: Array = np.exp(logs @ holds.T) @ sizes
        return found

    live = ~((missing(np.where(graphs, np.log(float(MOST_RANK)), 0.0)) > 0).any(1))
    graphs, logs = graphs[live], logs[live]
    floor = logs
    for _ in range(40 * len(bonds)):
        lacking = missing(logs)
        open_rows = np.flatnonzero(lacking.sum(1) > 0)
        if not len(open_rows):
            break
        best, at = np.full(len(open_rows), -inf), np.zeros(len(open_rows), dtype=int)
        size = entries(logs[open_rows])
        for j in range(len(bonds)):
            more = logs[open_rows].copy()
            more[:, j] = np.log(np.round(np.exp(more[:, j])) + 1)
            mended = lacking[open_rows].sum(1) - missing(more).sum(1)
            worth = np.where(graphs[open_rows, j], mended / (entries(more) - size), -inf)
            at, best = np.where(worth > best, j, at), np.maximum(best, worth)
        logs = logs.copy()
        logs[open_rows, at] = np.log(np.round(np.exp(logs[open_rows, at])) + 1)
    for _, j in product(range(2), range(len(bonds))):
        less = logs.copy()
        less[:, j] = np.log(np.maximum(np.round(np.exp(less[:, j])) - 1, 1))
        fine = (missing(less) <= 0).all(1) & (less[:, j] >= floor[:, j] - 1e-9) & (logs[:, j] > 1e-9)
        logs = np.where(fine[:, None], less, logs)
    return list(_graphs(shape, bonds, logs))


def least_nearby(graph: Graph, ranks: dict[int, int]) -> list[Graph]:
    """All ranks near those of a graph that meet the needs of all cuts, and do not if any of them is lowered.

    Example:
        >>> from tnkit.search.graph import ring
        >>> [str(g) for g in least_nearby(ring((9, 9, 9), (2, 2, 2)), {1: 4, 2: 4, 3: 4})]
        ['0-1:2 0-2:2 1-2:2']
    """
    bonds, masks = list(graph.ranks), list(ranks)
    crossing = np.array([[(m >> a & 1) != (m >> b & 1) for a, b in bonds] for m in masks])
    wanted = np.log([ranks[m] for m in masks]) - 1e-9

    def enough(table: Array) -> Array:
        met: Array = (np.log(np.maximum(table, 1)) @ crossing.T >= wanted).all(1) & (table >= 1).all(1)
        return met

    spans = [np.arange(max(2, r - _NEAR), r + _NEAR + 1) for r in graph.ranks.values()]
    table = np.stack([axis.ravel() for axis in np.meshgrid(*spans, indexing="ij")], axis=1)
    table = table[enough(table)]
    least = np.ones(len(table), dtype=bool)
    for j in range(len(bonds)):
        less = table.copy()
        less[:, j] -= 1
        least &= ~enough(less)
    return [Graph(graph.shape, graph.nodes, dict(zip(bonds, row, strict=True))) for row in table[least].tolist()]


def _graphs(shape: tuple[int, ...], bonds: list[Bond], logs: Array) -> Iterator[Graph]:
    for row in np.round(np.exp(logs)).astype(int):
        yield Graph(shape, [(k,) for k in range(len(shape))], dict(zip(bonds, row.tolist(), strict=True)))
