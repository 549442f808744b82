"""A race of families up one ladder of sizes, with time kept for what comes first to be fitted again from other starts.

For observed entries. Trains, rings and Tucker tensors over the given order are members like all others: over other
orders, and with nodes that hold several modes. After each rung the better half goes on, and the best of each family
while it is near the best of all, so that none is left for being slow at small sizes; cheap fits are also done from
noise. What is ahead at the end is fitted again from other random starts, and so are structures that were near: networks
that err differently, whose mean is nearer than any of them (`tnkit.search.mean_network`).

References: successive halving: Jamieson and Talwalkar 2016, arXiv 1502.07943; bond by bond: Greedy-TN, arXiv
2008.05437; means of fits from several starts: Hansen and Salamon 1990, doi:10.1109/34.58871.

Example:
    >>> import numpy as np, tnkit as tk
    >>> from tnkit.search import StructureSearch
    >>> x = tk.random_format("tr", (6, 6, 6, 6), 2, rng=0).to_dense().numpy()
    >>> mask = np.random.default_rng(0).random(x.shape) < 0.5
    >>> method = StructureSearch(shape=x.shape, strategy=FamilyRace(sizes=(60, 120), again=0))
    >>> done = tk.complete(x, mask=mask, method=method)
    >>> done.tensor.shape
    (6, 6, 6, 6)
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar, TypeAlias

from tnkit.search.graph import Graph
from tnkit.search.ladder import RankLadder, sized
from tnkit.search.objective import Trial
from tnkit.search.proposer import Conversation, Proposal, Proposer, Setting

__all__ = ["FamilyRace"]

_AT_ONCE = 2  # fits between two looks at the clock
_EXACT = 1e-6  # an error with which there is nothing left to gain
_CHEAP, _UNHURRIED_S = 0.08, 60.0  # of the race's time that is left: a fit that costs little; of one without end
_ALIKE = 1.25  # sizes whose errors can be compared: the same rank is more numbers in one family than in another
_SMALL = 4  # a fresh start begins with the target's size over this

_Asked: TypeAlias = "Generator[list[Proposal], list[Trial | None], list[Trial | None]]"


@dataclass(frozen=True, slots=True, eq=False)
class _Lane:
    """A structure in the race.

    Attributes:
        family: its kind.
        trial: the last fit that lowered its error.
        ratio: its error over the least of its rung.
    """

    family: str
    trial: Trial
    ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class FamilyRace(Proposer):
    """Race families of structures, then fit the first ones again.

    Attributes:
        orders: of the modes; the given one by default.
        merged: networks whose nodes hold several modes: the modes of each node, for each of them.
        sizes: numbers of each rung: every structure has the largest rank at which it takes no more.
        keep: the share of the structures that goes on to the next rung.
        champion: the best of a family goes on while its error is within this multiple of the least among those that
            are not larger, by a quarter at the most.
        near: structures that were within this multiple when they were left are fitted again at the end.
        gain: an error has fallen when it is below this share of the one before.
        raises: single bonds that grow at the most, where a network has no more than `few` bonds.
        few: see `raises`.
        steps: sweeps of each fit.
        share: of the time that is left, for the race.
        again: fits from other starts, at the most.
    """

    orders: tuple[tuple[int, ...], ...] = ()
    merged: tuple[tuple[tuple[int, ...], ...], ...] = ()
    sizes: tuple[int, ...] = (100, 300, 1000, 3000, 10_000)
    keep: float = 0.5
    champion: float = 1.2
    near: float = 1.15
    gain: float = 0.995
    raises: int = 6
    few: int = 6
    steps: int = 20
    share: float = 0.55
    again: int = 24
    name: ClassVar[str] = "families"
    summary: ClassVar[str] = (
        "trains, rings, Tucker and their kin raced up a ladder of sizes, the first ones fitted again"
    )

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        now, last = time.monotonic(), setting.objective.control.deadline
        until = now + self.share * (last - now) if last < inf else inf
        lanes = yield from self.race(setting, until)
        if not lanes:
            return
        best = min((lane.trial for lane in lanes), key=lambda t: t.error)
        if len(best.graph.ranks) <= self.few and best.error > _EXACT:
            grown = RankLadder(raises=self.raises, steps=self.steps, gain=self.gain).grown(setting, best)
            best = yield from _best_of(grown, best, until)
        if best.error > _EXACT:
            yield from self.once_more(best, lanes)

    def race(self, setting: Setting, until: float) -> Generator[list[Proposal], list[Trial | None], list[_Lane]]:
        """Up the ladder; every structure that ran, with its best trial."""
        firsts = self.firsts(setting.shape)
        told = yield from _asked([Proposal(g, steps=self.steps) for _, g in firsts], inf)
        alive = [_Lane(f, t) for (f, _), t in zip(firsts, told, strict=True) if t is not None]
        left: list[_Lane] = []
        for size in self.sizes:
            alive = _ranked(alive)
            chosen = self.chosen(alive)
            left += [lane for lane in alive if lane not in chosen]
            if not chosen or chosen[0].trial.error <= _EXACT or time.monotonic() > until:
                alive = chosen
                break
            made = [(lane, sized(lane.trial.graph, size)) for lane in chosen]
            alive = [lane for lane, g in made if g.key == lane.trial.graph.key]  # the next rung is for them
            made = [(lane, g) for lane, g in made if g.key != lane.trial.graph.key]
            told = yield from _asked([Proposal(g, lane.trial, steps=self.steps) for lane, g in made], until)
            told = yield from self.afresh(told, until)
            for (lane, _), trial in zip(made, told, strict=True):
                going = trial is not None and trial.error <= self.gain * lane.trial.error
                (alive if going else left).append(replace(lane, trial=trial) if going and trial is not None else lane)
        return _ranked([*alive, *left], keep=True)

    def afresh(self, told: Sequence[Trial | None], until: float) -> _Asked:
        """The better of each trial and a fit of its graph from noise, where that costs little: growth can be stuck."""
        left = until - time.monotonic() if until < inf else _UNHURRIED_S
        cheap = [k for k, t in enumerate(told) if t is not None and t.seconds < _CHEAP * left and t.error > _EXACT]
        asks = [
            Proposal(t.graph, steps=self.steps + self.steps // 2, number=-1)
            for k in cheap
            if (t := told[k]) is not None
        ]
        again = yield from _asked(asks, until)
        better = list(told)
        for k, trial in zip(cheap, again, strict=True):
            before = better[k]
            if trial is not None and before is not None and trial.error < before.error:
                better[k] = trial
        return better

    def chosen(self, ranked: Sequence[_Lane]) -> list[_Lane]:
        """Who goes on: the better part, and the best of each family while it is near."""
        count, found, seen = max(2, round(self.keep * len(ranked))), list[_Lane](), set[str]()
        for place, lane in enumerate(ranked):
            alike = [o.trial.error for o in ranked if o.trial.graph.n_params <= _ALIKE * lane.trial.graph.n_params]
            near = lane.family not in seen and lane.trial.error <= self.champion * min(alike)
            if place < count or near:
                found.append(lane)
            seen.add(lane.family)
        return found

    def once_more(self, best: Trial, lanes: Sequence[_Lane]) -> Conversation:
        """The best and those that were near, in turn, from other starts: small first, then at the size of the best."""
        others = [lane.trial.graph for lane in lanes if lane.ratio <= self.near and lane.trial is not best]
        flat = best.graph.with_flat_ranks().key
        others = [g for g in others if g.with_flat_ranks().key != flat]
        for number in range(1, self.again + 1):
            target = best.graph
            if number % 2 == 0 and others:
                target = sized(others[(number // 2 - 1) % len(others)].with_flat_ranks(), best.graph.n_params)
            small = sized(target.with_flat_ranks(), target.n_params // _SMALL)
            first = (yield [Proposal(small, steps=self.steps, number=number)])[0]
            if small.key != target.key:
                yield [Proposal(target, first, steps=self.steps, number=number)]

    def firsts(self, shape: tuple[int, ...]) -> list[tuple[str, Graph]]:
        """The structures at the first rung, each with its family."""
        found: dict[str, tuple[str, Graph]] = {}
        for place, order in enumerate(self.orders or (tuple(range(len(shape))),)):
            for kind in ("train", "ring", "tucker") if place == 0 else ("train", "ring"):
                for graph in RankLadder(shapes=(kind,), rungs=(2,)).made(shape, order):
                    found.setdefault(graph.key, (kind, graph))
        for nodes in self.merged:
            for graph in RankLadder(rungs=(2,)).joined(shape, nodes):
                found.setdefault(graph.key, ("merged", graph))
        return list(found.values())


def _ranked(lanes: Sequence[_Lane], *, keep: bool = False) -> list[_Lane]:
    """By error, with their ratios; with `keep`, by the ratios that they were left with."""
    if keep:
        least = min((lane.trial.error for lane in lanes), default=0.0)
        final = [replace(lane, ratio=1.0) if lane.trial.error <= least else lane for lane in lanes]
        return sorted(final, key=lambda lane: lane.ratio)
    ordered = sorted(lanes, key=lambda lane: lane.trial.error)
    return [replace(lane, ratio=lane.trial.error / max(ordered[0].trial.error, 1e-300)) for lane in ordered]


def _asked(proposals: Sequence[Proposal], until: float) -> _Asked:
    """A few at a time while there is time; None for those that were not asked."""
    told: list[Trial | None] = []
    for start in range(0, len(proposals), _AT_ONCE):
        if time.monotonic() > until:
            break
        told += yield list(proposals[start : start + _AT_ONCE])
    return [*told, *[None] * (len(proposals) - len(told))]


def _best_of(talk: Conversation, best: Trial, until: float) -> Generator[list[Proposal], list[Trial | None], Trial]:
    """Let a conversation go on while there is time; the best trial of it."""
    told: list[Trial | None] | None = None
    while time.monotonic() <= until:
        try:
            asks = next(talk) if told is None else talk.send(told)
        except StopIteration:
            break
        told = yield from _asked(asks, until)
        best = min([best, *(t for t in told if t is not None)], key=lambda t: t.error)
    return best
