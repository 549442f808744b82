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

from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tnkit.search.cut_needs import needs
from tnkit.search.greedy import lowered
from tnkit.search.least_ranks import MOST_RANK, least_nearby, least_ranks
from tnkit.search.objective import Trial
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting

__all__ = ["LoopSearch", "unicyclic"]

_MOST = 6  # modes up to which all graphs are made

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
        if max(ranks.values()) > MOST_RANK:
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


STRATEGIES.register(LoopSearch.name, LoopSearch)
