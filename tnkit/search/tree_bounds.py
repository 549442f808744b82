"""The cheapest trees for known ranks of all cuts: exact, over every tree whose nodes hold modes or none.

A tree network with relative error at most eps needs, at each of its cuts, at least the rank at which that unfolding
alone loses eps. So the size of the cheapest tree at those ranks bounds the size of every tree network from below; it
is found by dynamic programming over all sets of modes and all partitions of each. The trees that are cheapest at
stricter levels are the candidates, and what is fitted cannot be better than the bound.

A node may have any degree and hold any number of modes, so trains, hierarchical Tucker and Tucker tensors are included.

Example:
    >>> import numpy as np
    >>> ranks = np.full((1, 8), 2.0)  # three modes of size 9, all cuts of rank 2
    >>> size, graph = cheapest_trees(ranks, (9, 9, 9))[0]
    >>> size, str(graph)
    (62.0, '0-+0:2 1-+0:2 2-+0:2')
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tnkit.search.graph import Graph

__all__ = ["MOST_MODES", "cheapest_trees"]

#: Modes up to which all trees are compared: 21147 partitions in all at 8.
MOST_MODES = 8

Array: TypeAlias = "NDArray[Any]"


class _Way(NamedTuple):
    """How a set of modes hangs on: modes on the node itself, and the sets of its branches."""

    own: tuple[int, ...]
    branches: tuple[int, ...]


def cheapest_trees(ranks: Array, sizes: Sequence[int]) -> list[tuple[float, Graph]]:
    """For each level the cheapest tree and its size, exactly.

    Args:
        ranks: (levels, sets): the rank of each cut by the set of modes on one side, a bit mask.
        sizes: of the modes.

    Cost:
        some microseconds for each partition of each set of the modes: .1 s for 6 modes, 5 s for 8.
    """
    d, levels = len(sizes), len(ranks)
    full = 2**d - 1
    cost = np.full((full + 1, levels), np.inf)
    chosen: list[list[_Way | None]] = [[None] * levels for _ in range(full + 1)]
    # a set hangs on by its own rank; the whole set hangs on nothing
    for mask in range(1, full + 1):
        up = ranks[:, mask] if mask != full else np.ones(levels)
        for way in _ways(mask, full):
            node = up * prod(sizes[k] for k in way.own)
            below = np.zeros(levels)
            for branch in way.branches:
                node = node * ranks[:, branch]
                below = below + cost[branch]
            total = node + below
            for level in np.flatnonzero(total < cost[mask]):
                chosen[mask][level] = way
            cost[mask] = np.minimum(cost[mask], total)
    return [(float(cost[full, level]), _graph(chosen, ranks, sizes, level, full)) for level in range(levels)]


def _ways(mask: int, full: int) -> Iterator[_Way]:
    """Every node that can hold a set together: its modes and two or more branches, or one branch and a mode."""
    for blocks in _partitions(mask):
        single = [b for b in blocks if b & (b - 1) == 0]
        several = tuple(b for b in blocks if b & (b - 1))
        for absorbed in product((True, False), repeat=len(single)):
            own = tuple(b.bit_length() - 1 for b, a in zip(single, absorbed, strict=True) if a)
            branches = several + tuple(b for b, a in zip(single, absorbed, strict=True) if not a)
            if mask in branches:
                continue
            if mask == full and len(own) == 0 and len(branches) == 2:
                continue  # two sets joined by a matrix: never cheaper than without
            yield _Way(own, branches)


def _partitions(mask: int) -> Iterator[tuple[int, ...]]:
    if mask == 0:
        yield ()
        return
    low = mask & -mask
    rest = mask ^ low
    part = rest
    while True:
        block = low | part
        for others in _partitions(mask ^ block):
            yield (block, *others)
        if part == 0:
            break
        part = (part - 1) & rest


def _graph(chosen: list[list[_Way | None]], ranks: Array, sizes: Sequence[int], level: int, full: int) -> Graph:
    nodes: list[tuple[int, ...]] = []
    bonds: dict[tuple[int, int], int] = {}

    def visit(mask: int) -> int:
        way = chosen[mask][level]
        assert way is not None
        here = len(nodes)
        nodes.append(way.own)
        for branch in way.branches:
            # a tree keeps its bonds even where the rank is 1: what is asked may need more there
            bonds[here, visit(branch)] = max(int(ranks[level, branch]), 2)
        return here

    visit(full)
    order = sorted(range(len(nodes)), key=lambda k: (not nodes[k], nodes[k]))
    place = {k: j for j, k in enumerate(order)}
    return Graph(sizes, [nodes[k] for k in order], {(place[a], place[b]): r for (a, b), r in bonds.items()})
