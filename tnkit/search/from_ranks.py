"""Graphs with any number of loops from the ranks of all cuts: those that random nodes would give exactly such ranks.

The spectra of all cuts tell how large each rank is that stands out of the noise, and how large one is needed at eps.
`matched_graphs` gives the graphs whose generic ranks are those: for data that come from a network there are few, and
the one that they come from is among them. They are fitted from many starts, the smallest first: a fit of a graph with
loops often ends in a valley. Where their errors are the least they are fitted again, now from above: of a graph with
one rank more, fitted as well as it goes, that rank is dropped in many ways, and far more of these starts arrive than of
random ones. A graph is given up when a further round hardly lowers its error: where the best of many starts ends
twice is the bottom. Nodes of the one that reaches eps are split where that saves numbers.

The search is tnkit's own; splits are those of Greedy-TN (arXiv 2008.05437).

Example:
    >>> import tnkit as tk
    >>> from itertools import combinations
    >>> every = Graph((7,) * 4, [(k,) for k in range(4)], dict.fromkeys(combinations(range(4), 2), 2))
    >>> x = tk.random_format(every.spec(), every.shape, every.bond_ranks(), rng=0).to_dense()
    >>> tk.search(x, eps=1e-4, strategy="matched").best.fit.n_params
    224
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import ClassVar, TypeAlias

from tnkit.search.clear_ranks import clear_ranks
from tnkit.search.cut_needs import needs, stands_out
from tnkit.search.graph import Graph
from tnkit.search.greedy import GreedyTN, lowered
from tnkit.search.loops import LoopSearch
from tnkit.search.matched import matched_graphs
from tnkit.search.objective import DenseObjective, Trial
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting

__all__ = ["MatchedSearch"]

_MOST = 8  # modes
_LARGEST = 64  # rank of a cut, beyond which no graph of small bonds is to be expected where no gap says so

_Ranks: TypeAlias = "dict[int, int]"


@dataclass(frozen=True, slots=True)
class MatchedSearch(Proposer):
    """Fit the graphs whose generic ranks are those of the cuts.

    Attributes:
        candidates: graphs that are fitted at the most for each way to read the ranks; twice as many in all.
        rounds: of fits; the half of the graphs with the smaller errors goes on.
        gain: the share by which a round has to lower the error of a graph; one whose error stays is given up.
        again: rounds for the smaller graphs where a larger one has reached eps in the first.
        starts: of each fit in the first round; twice as many in the others, half of them from above.
        steps: sweeps of a fit.
        otherwise: what is tried where none of them reaches eps.
    """

    candidates: int = 6
    rounds: int = 5
    gain: float = 0.05
    again: int = 2
    starts: int = 32
    steps: int = 200
    otherwise: tuple[Proposer, ...] = (LoopSearch(),)
    splitting: GreedyTN = field(default_factory=GreedyTN)
    name: ClassVar[str] = "matched"
    needs_eps: ClassVar[bool] = True
    summary: ClassVar[str] = "graphs with any number of loops whose generic ranks are those of all cuts"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        best = yield from self.first(setting)
        if best is None:
            for part in self.otherwise:
                yield from part.propose(setting)
            return
        best = yield from lowered(setting, best, self.steps, 2 * self.starts)
        yield from self.splitting.resplit(setting, best)

    def first(self, setting: Setting) -> Generator[list[Proposal], list[Trial | None], Trial | None]:
        """The first that reaches eps, after smaller ones have had some more rounds; None where none does."""
        objective = setting.objective
        if objective.cuts is None or not objective.eps or not 3 <= len(setting.shape) <= _MOST:
            return None
        close: list[Trial] = []
        best: Trial | None = None
        for graph in self.graphs(setting):
            (trial,) = yield [Proposal(graph, steps=self.steps, starts=self.starts)]
            if trial is not None and objective.reached(trial.error):
                best = trial
                break
            close += [] if trial is None else [trial]
        for number in range(2, (self.rounds if best is None else self.again) + 1):
            close = sorted(close, key=lambda t: t.error)[: max(3, (len(close) + 1) // 2)]
            close.sort(key=lambda t: t.graph.n_params)
            left: list[Trial] = []
            for trial in close:
                inside = best is not None and _holds(best.graph, trial.graph)
                parent = best if inside else (yield from self.larger(trial, close, number))
                (more,) = yield [Proposal(trial.graph, parent, steps=self.steps, starts=2 * self.starts, afresh=True)]
                if more is not None and objective.reached(more.error):
                    return more
                if parent is not None and objective.reached(parent.error) and not inside:
                    best = parent
                stays = more is None or more.error > (1 - self.gain) * trial.error
                left += [] if inside or stays or more is None else [more]
            close = left
        return best

    def larger(
        self, trial: Trial, close: list[Trial], number: int
    ) -> Generator[list[Proposal], list[Trial | None], Trial]:
        """A larger graph from which to come down to a trial's: one that was fitted, else one with a rank more."""
        known = [t for t in close if t is not trial and _holds(t.graph, trial.graph)]
        if known:
            return min(known, key=lambda t: t.error)
        options = sorted((trial.graph.with_rank(b, r + 1) for b, r in trial.graph.ranks.items()), key=_size)
        graph = options[number % len(options)]
        (made,) = yield [Proposal(graph, trial, steps=self.steps, starts=self.starts)]
        return trial if made is None else made

    def graphs(self, setting: Setting) -> Iterator[Graph]:
        """Of the ranks above a gap, of those that stand out, of those that eps needs, then of what is in between."""
        objective, shape = setting.objective, setting.shape
        control, allowed = objective.control, objective.max_params
        below = prod(shape) if allowed is None else min(prod(shape), allowed + 1)
        seen = set[str]()
        for least, most, legs in self.kinds(setting):
            found = matched_graphs(shape, least, most, legs=legs, below=below, control=control)
            for graph in found[: self.candidates]:
                if graph.key not in seen and len(seen) < 2 * self.candidates:
                    seen.add(graph.key)
                    yield graph

    def kinds(self, setting: Setting) -> Iterator[tuple[_Ranks, _Ranks, tuple[int, ...]]]:
        """Ways to read the ranks: for all cuts the least and the most, and the ranks of the modes."""
        objective, shape = setting.objective, setting.shape
        if isinstance(objective, DenseObjective) and objective.eps:
            for clear in clear_ranks(objective.x, objective.norm, objective.eps, control=objective.control):
                yield clear, clear, shape
                yield clear, _loose(clear), shape
                yield clear, clear, _legs(clear, len(shape))
                yield clear, _loose(clear), _legs(clear, len(shape))
        low = needs(objective)
        if max(low.values()) > _LARGEST:
            return
        high = stands_out(objective, low)
        yield high, high, shape
        yield high, high, _legs(high, len(shape))
        yield low, low, shape
        yield low, high, shape
        yield high, _loose(high), _legs(high, len(shape))


def _legs(ranks: _Ranks, d: int) -> tuple[int, ...]:
    """Of the modes."""
    last = 2**d - 1
    return tuple(ranks.get(1 << k, ranks.get(last - (1 << k), 1)) for k in range(d))


def _loose(ranks: _Ranks) -> _Ranks:
    """A few ranks are below the least cut of their network."""
    return {mask: rank + rank // 4 for mask, rank in ranks.items()}


def _size(graph: Graph) -> int:
    return graph.n_params


def _holds(large: Graph, small: Graph) -> bool:
    """Whether a graph has the same nodes, and no rank below that of the other."""
    return large.nodes == small.nodes and all(large.rank(b) >= r for b, r in small.ranks.items())


STRATEGIES.register(MatchedSearch.name, MatchedSearch)
