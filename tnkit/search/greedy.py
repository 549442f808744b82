"""Greedy rank increments from rank one (Greedy-TN).

Start with every bond of rank one. Repeat: try a larger rank at every bond, fit each a little from the parent's tensors,
keep the bond that lowers the error most (as the paper does, or for its size), and fit that well. A node whose SVD shows
that two are smaller is split, and a node without modes goes where that is no larger. At the end every rank is lowered
as far as eps holds.

The paper fits every bond at every step. While a cut still forbids eps, how far each bond would lower that bound says
which to raise, without a fit; only from the first graph that no cut forbids are bonds fitted. It has several starts, as
nothing has grown to it.

Reference: Hashemizadeh, Liu, Miller, Rabusseau, arXiv 2008.05437.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import combinations
from math import inf, log
from typing import ClassVar

import numpy as np

from tnkit.search.cut_needs import needs
from tnkit.search.graph import Bond, Graph
from tnkit.search.least_ranks import MOST_RANK, least_ranks
from tnkit.search.objective import Trial
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting
from tnkit.search.split_merge import merges, splits

__all__ = ["GreedyTN", "lowered"]

_STARTS = 8  # of a first fit that grew from nothing
_MOST = 10  # modes up to which all cuts are asked


@dataclass(frozen=True, slots=True)
class GreedyTN(Proposer):
    """Raise one bond at a time.

    Attributes:
        trial_steps: sweeps of a bond's trial.
        full_steps: sweeps of the bond that is chosen.
        max_raises: bonds raised at the most.
        per_size: whether the fall of the error counts for the numbers that it takes; the paper takes the fall alone.
        split: share of a node's norm that a split may lose, in parts of eps (1e-6 if none is asked); 0: none.
        prune: whether bonds are left out that the cuts show to be no help: those that leave the lower bound of the
            error where it is while others lower it.
    """

    trial_steps: int = 3
    full_steps: int = 60
    max_raises: int = 200
    per_size: bool = True
    split: float = 0.1
    prune: bool = True
    name: ClassVar[str] = "greedy"
    summary: ClassVar[str] = "rank increments from rank one, the best bond at a time (arXiv 2008.05437)"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        objective, d = setting.objective, len(setting.shape)
        one = Graph(setting.shape, [(k,) for k in range(d)], {})
        graph = _first_admitted(one, setting) if self.prune else one
        (best,) = yield [Proposal(graph, steps=self.full_steps, starts=1 if graph is one else _STARTS)]
        raises = 0
        while best is not None and not objective.reached(best.error) and raises < self.max_raises:
            bonds: list[Bond] = list(combinations(range(len(best.graph.nodes)), 2))
            options = [best.graph.with_rank(bond, best.graph.rank(bond) + 1) for bond in bonds]
            options = [option for option, bond in zip(options, bonds, strict=True) if _usable(option, bond)]
            if self.prune:
                options = _useful(options, setting)
            trials = yield [Proposal(option, best, steps=self.trial_steps) for option in options]
            known = [t for t in trials if t is not None]
            if not known:
                return
            now = best
            chosen = min(known, key=lambda t: _gain(now, t) if self.per_size else t.error)
            if chosen.error >= best.error * (1 - 1e-9):
                chosen = min(known, key=lambda t: t.error)
            (better,) = yield [Proposal(chosen.graph, chosen, steps=self.full_steps)]
            best = better if better is not None else chosen
            best = yield from self.resplit(setting, best)
            raises += 1
        if best is not None and objective.reached(best.error):
            best = yield from lowered(setting, best, self.full_steps)
            yield from self.resplit(setting, best)

    def resplit(self, setting: Setting, best: Trial) -> Generator[list[Proposal], list[Trial | None], Trial]:
        """Split and merge nodes while that makes the graph smaller and its error hardly larger."""
        objective, tol = setting.objective, self.split * (setting.objective.eps or 1e-6)
        while self.split:
            smaller = sorted([*merges(best), *splits(best, tol)], key=lambda t: t.graph.n_params)
            if not smaller:
                return best
            (trial,) = yield [Proposal(smaller[0].graph, smaller[0], steps=self.full_steps, afresh=True)]
            kept = trial is not None and (objective.reached(trial.error) or trial.error <= best.error * (1 + 1e-3))
            if trial is None or not kept:
                return best
            best = trial
        return best


def lowered(
    setting: Setting, best: Trial, steps: int, starts: int = 1
) -> Generator[list[Proposal], list[Trial | None], Trial]:
    """Lower one rank after the other, the largest saving first, while eps holds and the cuts do not forbid it."""
    objective, eps = setting.objective, setting.objective.eps
    closed: set[Bond] = set()
    while True:
        options = [b for b in best.graph.ranks if b not in closed]
        if not options or eps is None:
            return best
        now = best.graph
        bond = min(options, key=lambda b: now.with_rank(b, now.rank(b) - 1).n_params)
        smaller = now.with_rank(bond, now.rank(bond) - 1)
        if objective.bound(smaller) > eps:
            closed.add(bond)
            continue
        (trial,) = yield [Proposal(smaller, best, steps=steps, starts=starts, afresh=starts > 1)]
        if trial is not None and objective.reached(trial.error):
            best = trial
        else:
            closed.add(bond)


def _gain(before: Trial, after: Trial) -> float:
    """Less is better: the fall of the log error for each part by which the size grows."""
    grown = log(after.graph.n_params / before.graph.n_params)
    if grown <= 0 or after.error <= 0:
        return -inf
    return log(after.error / before.error) / grown


def _usable(graph: Graph, bond: Bond) -> bool:
    """Whether a bond's rank is not above what the rest of either of its nodes is."""
    return all(graph.rank(bond) ** 2 <= graph.size(node) for node in bond if graph.nodes[node])


def _first_admitted(graph: Graph, setting: Setting) -> Graph:
    """Raised, one bond at a time, where that mends most of what the cuts lack at eps, until none lacks anything."""
    objective, d = setting.objective, len(graph.shape)
    if objective.eps is None or objective.cuts is None or d > _MOST:
        return graph
    wanted = needs(objective)
    if max(wanted.values()) > MOST_RANK:
        return graph
    count = d * (d - 1) // 2
    made = least_ranks(graph.shape, wanted, np.ones((1, count), dtype=bool), np.ones((1, count)))
    return made[0] if made else graph


def _useful(options: list[Graph], setting: Setting) -> list[Graph]:
    """Those whose lower bound of the error is the least; all, where none differs."""
    bounds = [setting.objective.bound(option) for option in options]
    low, high = min(bounds), max(bounds)
    if high - low <= 1e-6 * high:
        return options
    return [option for option, bound in zip(options, bounds, strict=True) if bound <= low + 0.5 * (high - low)]


STRATEGIES.register(GreedyTN.name, GreedyTN)
