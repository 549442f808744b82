"""Graphs whose generic ranks are those of the array: at every cut, not below what it needs and not above.

Over random nodes the rank of an unfolding is the least cut of the network between its two sets of modes, where a bond
counts its rank and an open leg its size (Cui, Freedman, Sattath, Stong, Minton, arXiv 1508.04644: in general at the
most that, and for nearly all networks that). So the ranks of all cuts say which networks an array can be drawn from:
bonds whose products are too small cannot reach the error, and bonds whose products are too large would not have left
the ranks so low. Few graphs meet both, often one alone, and they may have any number of loops. They are found bond by
bond, over all ranks at once, with what the bonds that are still open can and cannot add.

The search is tnkit's own.

Example:
    >>> from tnkit.search.graph import ring
    >>> planted = ring((9, 9, 9, 9), (2, 3, 2, 2))
    >>> needs = {mask: round(rank) for mask, rank in generic_ranks(planted).items()}
    >>> [str(graph) for graph in matched_graphs(planted.shape, needs, needs)]
    ['0-1:3 0-3:2 1-2:2 2-3:2']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import inf, log
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tnkit.search.graph import Bond, Graph
from tnkit.solvers import NO_LIMIT, Control

__all__ = ["generic_ranks", "matched_graphs", "with_leaves"]

_MOST_RANK = 16  # of a bond
_SLACK = 1e-4  # of logarithms in single precision
_WORK = 2**22  # numbers looked at for each rank of each bond
_ROWS = 2**22  # numbers of the largest intermediate

Array: TypeAlias = "NDArray[Any]"


class _Cuts:
    """The least cuts of graphs over the same modes, many graphs at a time.

    Args:
        shape: of the modes.
        masks: the sets of modes on one side of each unfolding.
    """

    def __init__(self, shape: Sequence[int], masks: Sequence[int]) -> None:
        d = len(shape)
        self.bonds: list[Bond] = list(combinations(range(d), 2))
        sides = np.arange(2**d)
        bit = (sides[:, None] >> np.arange(d)) & 1  # (sides, modes)
        self.crossing = np.array([bit[:, a] != bit[:, b] for a, b in self.bonds], dtype=float)  # (bonds, sides)
        differ = (np.array(masks)[:, None] ^ sides)[:, :, None] >> np.arange(d) & 1  # (masks, sides, modes)
        self.legs = (differ @ np.log(np.array(shape, dtype=float))).astype(np.float32)  # (masks, sides)
        self.plain = self.crossing[:, masks]  # (bonds, masks)

    def at_most(self, logs: Array, most: Array) -> Array:
        """Of graphs (graphs, bonds) those whose generic ranks are nowhere above."""
        fine = (logs @ self.plain <= most).all(1)  # what the bonds alone say; open legs can only make it less
        rest = np.flatnonzero(~fine)
        fine[rest] = (self.ranks(logs[rest]) <= most).all(1)
        return np.flatnonzero(fine)

    def at_least(self, logs: Array, least: Array) -> Array:
        """Of graphs (graphs, bonds) those whose generic ranks are nowhere below."""
        open_rows = np.flatnonzero((logs @ self.plain >= least).all(1))
        return open_rows[(self.ranks(logs[open_rows]) >= least).all(1)]

    def ranks(self, logs: Array) -> Array:
        """The logarithm of the generic rank of every unfolding.

        Args:
            logs: (graphs, bonds) logarithms of the ranks.

        Returns:
            (graphs, masks).
        """
        step = max(1, _ROWS // self.legs.size)
        parts = []
        for at in range(0, len(logs), step):
            weight = (logs[at : at + step] @ self.crossing).astype(np.float32)  # (graphs, sides)
            parts.append((weight[:, None, :] + self.legs).min(-1))
        return np.concatenate(parts) if parts else np.zeros((0, len(self.legs)))


def generic_ranks(graph: Graph) -> dict[int, float]:
    """The rank of every unfolding of a graph of one node a mode with random nodes, by its set of modes."""
    d = len(graph.shape)
    masks = range(1, 2 ** (d - 1))
    cuts = _Cuts(graph.shape, masks)
    holder = {modes[0]: k for k, modes in enumerate(graph.nodes)}
    logs = [log(graph.rank((holder[a], holder[b]))) for a, b in cuts.bonds]
    found = np.exp(cuts.ranks(np.array([logs]))[0])
    return {mask: float(rank) for mask, rank in zip(masks, found, strict=True)}


def matched_graphs(
    shape: Sequence[int],
    low: Mapping[int, int],
    high: Mapping[int, int],
    *,
    legs: Sequence[int] | None = None,
    below: float = inf,
    width: int | None = None,
    control: Control = NO_LIMIT,
) -> list[Graph]:
    """Graphs of one node a mode whose generic ranks lie between two bounds at every cut, the smallest first.

    Args:
        shape: of the modes, three or more.
        low: the rank that each unfolding needs, by set of modes (without the last mode).
        high: the largest rank that each unfolding can have.
        legs: ranks of the modes; a mode whose rank is below its size may hang on its node by a matrix. By default the
            sizes of the modes themselves.
        below: sizes from which on graphs are of no interest.
        width: graphs in progress at the most, the smallest; by default as many as some seconds allow.
        control: beyond its deadline nothing is found.

    Cost:
        milliseconds for four modes, tenths of a second for five, some seconds for six or more.
    """
    masks = list(low)
    legs = tuple(shape) if legs is None else tuple(legs)
    cuts = _Cuts(legs, masks)
    least = np.log([max(low[m], 1) for m in masks]) - _SLACK
    most = np.log([max(high[m], low[m], 1) for m in masks]) + _SLACK
    sizes, d = np.array(shape, dtype=float), len(shape)
    caps = _caps(cuts, most)
    place = sorted(range(d), key=lambda k: caps[[j for j, bond in enumerate(cuts.bonds) if k in bond]].prod())
    order = sorted(range(len(cuts.bonds)), key=lambda j: sorted(place.index(k) for k in cuts.bonds[j]))
    holds = np.array([[k in bond for k in range(d)] for bond in cuts.bonds], dtype=float)  # (bonds, nodes)
    rows = np.zeros((1, len(cuts.bonds)))
    width = width or max(200, min(4_000, _WORK // cuts.legs.size))
    for done, j in enumerate(order):
        made = np.repeat(rows, caps[j], axis=0)
        made[:, j] = np.tile(np.log(np.arange(1.0, caps[j] + 1)), len(rows))
        entries = np.exp(made @ holds) @ sizes
        made, entries = made[entries < below], entries[entries < below]
        fine = cuts.at_most(made, most)
        made, entries = made[fine], entries[fine]
        full = made.copy()
        full[:, order[done + 1 :]] = np.log(caps[order[done + 1 :]])
        fine = cuts.at_least(full, least)
        rows = made[fine][np.argsort(entries[fine], kind="stable")[:width]]
        if control.out_of_time:
            return []
    entries = np.exp(rows @ holds) @ sizes
    nodes = [(k,) for k in range(d)]
    found = np.round(np.exp(rows[np.argsort(entries, kind="stable")])).astype(int)
    graphs = (Graph(shape, nodes, dict(zip(cuts.bonds, row, strict=True))) for row in found.tolist())
    return sorted((with_leaves(graph, legs) for graph in graphs), key=lambda g: g.n_params)


def with_leaves(graph: Graph, legs: Sequence[int]) -> Graph:
    """A graph of one node a mode, with a mode on a matrix of its own where that takes fewer numbers.

    Args:
        graph: node k holds mode k.
        legs: the rank of each mode.

    Example:
        >>> star = Graph((9, 3, 3), [(0,), (1,), (2,)], {(0, 1): 2, (0, 2): 2})
        >>> str(with_leaves(star, (3, 3, 3)))
        '0-1:2 0-2:2'
        >>> str(with_leaves(star, (2, 3, 3)))
        '0-+0:2 1-+0:2 2-+0:2'
    """
    nodes, ranks, inner = list(graph.nodes), dict(graph.ranks), len(graph.nodes)
    for k, (n, leg) in enumerate(zip(graph.shape, legs, strict=True)):
        bonds = graph.size(k) // n
        if leg * (n + bonds) < n * bonds:
            nodes.append(())
            ranks = {(inner if a == k else a, inner if b == k else b): r for (a, b), r in ranks.items()}
            ranks[k, inner] = leg
            inner += 1
    return graph if inner == len(graph.nodes) else Graph(graph.shape, nodes, ranks)


def _caps(cuts: _Cuts, most: Array) -> NDArray[np.int64]:
    """For each bond the largest rank that alone does not make any unfolding's rank too large."""
    count = len(cuts.bonds)
    caps = np.ones(count, dtype=np.int64)
    for j in range(count):
        alone = np.zeros((_MOST_RANK, count))
        alone[:, j] = np.log(np.arange(1.0, _MOST_RANK + 1))
        caps[j] = int((cuts.ranks(alone) <= most).all(1).sum())
    return np.maximum(caps, 1)
