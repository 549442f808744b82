"""Graphs with one loop: all of them at the least ranks that the cuts admit, the promising ones grown by their errors.

A connected graph with as many bonds as nodes has one loop: rings, a triangle with modes hanging on it, and what is in
between; over five modes there are 222, over six 3660. For each of them the spectra of all cuts tell the least ranks.
Those that are smaller than the best so far run against each other: a few sweeps each, the half with the smaller errors
goes on. What is left grows where a larger rank lowers the error most, until it reaches eps or is no smaller any more.

The enumeration and its race are tnkit's own; growth is that of Greedy-TN (arXiv 2008.05437), successive halving that of
Jamieson & Talwalkar, arXiv 1502.07943.

Example:
    >>> import tnkit as tk
    >>> x = tk.random_format("tr", (6, 6, 6, 6), (2, 3, 2, 3), rng=0).to_dense()
    >>> tk.search(x, eps=1e-4, strategy="loops").best.fit.n_params
    144
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from math import inf
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tnkit.search.cut_needs import needs
from tnkit.search.graph import Bond, Graph
from tnkit.search.greedy import lowered
from tnkit.search.objective import Trial
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting

__all__ = ["LoopSearch", "least_nearby", "least_ranks", "unicyclic"]

_MOST = 6  # modes up to which all graphs are made
_NEAR = 3  # by how much ranks differ from the first ones that were found
_LARGEST = 64  # rank of a cut, beyond which growth one by one takes too long

Array: TypeAlias = "NDArray[Any]"


@dataclass(frozen=True, slots=True)
class LoopSearch(Proposer):
    """Race all graphs with one loop, then grow the best.

    Attributes:
        width: graphs that enter the race at the most, the smallest ones.
        finalists: graphs that are grown.
        starts: of each fit.
        steps: sweeps of a fit to the end; the race takes a sixth of them.
    """

    width: int = 16
    finalists: int = 5
    starts: int = 6
    steps: int = 150
    name: ClassVar[str] = "loops"
    needs_eps: ClassVar[bool] = True
    summary: ClassVar[str] = "all graphs with one loop from the least ranks that the cuts admit, raced and grown"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        objective, d = setting.objective, len(setting.shape)
        if objective.cuts is None or objective.eps is None or not 3 <= d <= _MOST:
            return
        ranks = needs(objective)
        if max(ranks.values()) > _LARGEST:
            return
        first = sorted(least_ranks(setting.shape, ranks, unicyclic(d)), key=lambda g: g.n_params)
        nearby = [g for graph in first[: 3 * self.width] for g in least_nearby(graph, ranks)]
        pool = sorted({g.key: g for g in nearby}.values(), key=lambda g: g.n_params)[: self.width]
        trials = yield [Proposal(g, steps=self.steps // 7, starts=self.starts) for g in pool]
        alive = sorted([t for t in trials if t is not None], key=lambda t: t.error)[: self.width // 2]
        trials = yield [Proposal(t.graph, t, steps=self.steps // 3, starts=self.starts) for t in alive]
        alive = sorted([t for t in trials if t is not None], key=lambda t: t.error)
        for trial in [t for t in alive if not objective.reached(t.error)][: self.finalists]:
            yield from self.grow(setting, trial)

    def grow(self, setting: Setting, trial: Trial) -> Conversation:
        """Larger ranks, one at a time, until eps is reached."""
        objective = setting.objective
        (full,) = yield [Proposal(trial.graph, trial, steps=self.steps, starts=3 * self.starts)]
        best, tries = trial if full is None else full, 5
        while not objective.reached(best.error):
            options = [best.graph.with_rank(b, r + 1) for b, r in best.graph.ranks.items()]
            trials = yield [Proposal(g, best, steps=self.steps // 3, starts=self.starts) for g in options]
            known = sorted([t for t in trials if t is not None], key=lambda t: t.error)
            if not known:
                return
            best = known[0]
            for trial in known[:tries]:
                if not objective.reached(best.error):
                    (full,) = yield [Proposal(trial.graph, trial, steps=self.steps, starts=3 * self.starts)]
                    best = best if full is None or full.error > best.error else full
            tries = 2
        yield from lowered(setting, best, self.steps, 3 * self.starts)


def unicyclic(d: int) -> Array:
    """All connected graphs over d nodes with d bonds, as rows of zeros and ones over the bonds.

    Example:
        >>> [len(unicyclic(d)) for d in (3, 4, 5)]
        [1, 15, 222]
    """
    bonds = list(combinations(range(d), 2))
    rows = []
    for chosen in combinations(range(len(bonds)), d):
        group = list(range(d))
        for j in chosen:
            a, b = (group[node] for node in bonds[j])
            group = [a if g == b else g for g in group]
        if len(set(group)) == 1:
            row = np.zeros(len(bonds), dtype=bool)
            row[list(chosen)] = True
            rows.append(row)
    return np.array(rows)


def least_ranks(shape: tuple[int, ...], ranks: dict[int, int], graphs: Array) -> list[Graph]:
    """For each graph small ranks whose products over every cut are at least those that are needed.

    Ranks are raised where that mends most for its size, then lowered as far as all cuts admit; for all graphs at once.

    Args:
        shape: of the modes.
        ranks: needed, by set of modes.
        graphs: (graphs, bonds), from `unicyclic` or any others.

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
    logs = np.where(graphs, np.log(2.0), 0.0)

    def missing(logs: Array) -> Array:
        lack: Array = np.clip(wanted - logs @ crossing.T, 0, None)
        return lack

    def entries(logs: Array) -> Array:
        found: Array = np.exp(logs @ holds.T) @ sizes
        return found

    live = ~((missing(np.where(graphs, np.log(float(_LARGEST)), 0.0)) > 0).any(1))
    graphs, logs = graphs[live], logs[live]
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
        logs[open_rows, at] = np.log(np.round(np.exp(logs[open_rows, at])) + 1)
    for _, j in product(range(2), range(len(bonds))):
        less = logs.copy()
        less[:, j] = np.log(np.maximum(np.round(np.exp(less[:, j])) - 1, 1))
        fine = (missing(less) <= 0).all(1) & (logs[:, j] > np.log(2.5))
        logs[fine, j] = less[fine, j]
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


STRATEGIES.register(LoopSearch.name, LoopSearch)
