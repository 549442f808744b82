"""Graphs with loops from the ranks of all cuts: the smallest one that no cut forbids, by an integer program.

At eps every unfolding needs a rank that its spectrum tells, and for every set of modes the bonds that leave it must
multiply to at least that. In logarithms these are linear conditions on which rank each bond has; the size of a node is
the exponential of such a sum, and its tangents bound it from below. So a linear integer program gives the smallest
graph of one node a mode that the cuts admit, and its size bounds all such graphs. If it does not reach eps when it is
fitted, some rank must be larger than there, which is one more condition. After some rounds the best is grown, greedily.

The program and its bound are tnkit's own; it is solved by HiGHS (Huangfu & Hall, doi:10.1007/s12532-017-0130-5).

Example:
    >>> least, graph = smallest_graph((9, 9, 9), {1: 2, 2: 4, 3: 2})  # what a train of ranks 2 and 2 needs
    >>> least, str(graph)
    (72, '0-1:2 1-2:2')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, log, prod
from typing import ClassVar

import numpy as np
import scipy

from tnkit.search.cut_needs import needs
from tnkit.search.graph import Bond, Graph
from tnkit.search.greedy import lowered
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting

__all__ = ["CutSearch", "smallest_graph"]

_MOST = 8  # modes, beyond which there are too many bonds
_LARGEST = 32  # rank of a bond that the program may choose one by one


@dataclass(frozen=True, slots=True)
class CutSearch(Proposer):
    """Fit the smallest graphs that the cuts admit, one after the other, then grow the best.

    Attributes:
        candidates: graphs of the integer program that are fitted at the most.
        starts: random starts of each.
        steps: sweeps of each.
        seconds: for each integer program.
    """

    candidates: int = 6
    starts: int = 3
    steps: int = 60
    seconds: float = 5.0
    name: ClassVar[str] = "cuts"
    needs_eps: ClassVar[bool] = True
    summary: ClassVar[str] = "graphs with loops from the least ranks that the spectra of all cuts admit, with a bound"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        objective = setting.objective
        if objective.cuts is None or objective.eps is None or not 2 <= len(setting.shape) <= _MOST:
            return
        ranks, failed, best = needs(objective), list[Graph](), None
        if max(ranks.values()) > _LARGEST:
            return
        for count in range(self.candidates):
            found = smallest_graph(setting.shape, ranks, failed, seconds=self.seconds)
            if found is None:
                break
            least, graph = found
            if count == 0:
                setting.bounds["any graph of one node a mode"] = least
            (trial,) = yield [Proposal(graph, steps=self.steps, starts=self.starts)]
            if trial is None or objective.reached(trial.error):
                return  # no smaller one is admitted
            failed.append(graph)
            if best is None or trial.error < best.error:
                best = trial
        bonds: list[Bond] = list(combinations(range(len(setting.shape)), 2))
        while best is not None and not objective.reached(best.error):
            options = [best.graph.with_rank(b, best.graph.rank(b) + 1) for b in bonds]
            trials = yield [Proposal(option, best, steps=8) for option in options]
            now = best
            known = [t for t in trials if t is not None and t.error < now.error * (1 - 1e-6)]
            if not known:
                return
            chosen = min(
                known, key=lambda t: log(max(t.error, 1e-300) / now.error) / (t.graph.n_params - now.graph.n_params)
            )
            (better,) = yield [Proposal(chosen.graph, chosen, steps=self.steps)]
            best = chosen if better is None else better
        if best is not None:
            yield from lowered(setting, best, self.steps)


def smallest_graph(
    shape: Sequence[int], ranks: Mapping[int, int], failed: Sequence[Graph] = (), *, seconds: float = 10.0
) -> tuple[int, Graph] | None:
    """The smallest graph of one node a mode whose bonds meet the ranks of all cuts.

    Args:
        shape: of the modes.
        ranks: by set of modes.
        failed: graphs that are too small: some bond must have a larger rank than there.
        seconds: for the integer program.

    Returns:
        A size below which no such graph is (a few parts in a thousand of rounding included), and the graph; None if
        the program ended without one.
    """
    d = len(shape)
    bonds: list[Bond] = list(combinations(range(d), 2))
    crossing = {m: [j for j, (a, b) in enumerate(bonds) if (m >> a & 1) != (m >> b & 1)] for m in ranks}
    caps = [max((ranks[m] for m in ranks if j in crossing[m]), default=1) for j in range(len(bonds))]
    place, columns = list[list[int]](), 0
    for cap in caps:
        place.append(list(range(columns, columns + cap)))
        columns += cap
    width = columns + d  # which rank each bond has, and the size of each node in units of its mode
    rows: list[tuple[np.ndarray[tuple[int], np.dtype[np.float64]], float, float]] = []

    def row(low: float, high: float, entries: Mapping[int, float]) -> None:
        line = np.zeros(width)
        for column, value in entries.items():
            line[column] += value
        rows.append((line, low, high))

    for spots in place:
        row(1, 1, dict.fromkeys(spots, 1.0))
    logs = {column: log(r + 1) for spots in place for r, column in enumerate(spots)}
    for m, js in crossing.items():
        row(log(ranks[m]) - 1e-9, np.inf, {c: logs[c] for j in js for c in place[j]})
    for graph in failed:
        row(1, np.inf, {c: 1.0 for j, b in enumerate(bonds) for c in place[j][graph.rank(b) :]})
    for k in range(d):
        mine = {c: logs[c] for j, b in enumerate(bonds) if k in b for c in place[j]}
        most = prod(min(cap, 16) for j, cap in enumerate(caps) if k in bonds[j])
        for p in sorted({*range(1, 33), *np.geomspace(32, max(most, 33), 30).astype(int).tolist()}):
            # size_k ≥ p (1 + Σ log r − log p), the tangent of the exponential at log p
            row(p * (1 - log(p)), np.inf, {columns + k: 1.0, **{c: -p * value for c, value in mine.items()}})
    cost = np.concatenate([np.zeros(columns), np.asarray(shape, dtype=float)])
    solver = scipy.optimize  # SciPy loads it here, not when tnkit is imported
    lines = solver.LinearConstraint(np.array([r[0] for r in rows]), [r[1] for r in rows], [r[2] for r in rows])
    limits = solver.Bounds(
        np.concatenate([np.zeros(columns), np.ones(d)]), np.concatenate([np.ones(columns), np.full(d, np.inf)])
    )
    whole = np.concatenate([np.ones(columns), np.zeros(d)])
    found = solver.milp(cost, constraints=lines, bounds=limits, integrality=whole, options={"time_limit": seconds})
    if found.x is None:
        return None
    chosen = {b: 1 + int(np.argmax(found.x[place[j]])) for j, b in enumerate(bonds)}
    least = found.mip_dual_bound if found.mip_dual_bound is not None else 0.0
    return max(0, ceil(least * (1 - 1e-6) - 1e-6)), Graph(shape, [(k,) for k in range(d)], chosen)


STRATEGIES.register(CutSearch.name, CutSearch)
