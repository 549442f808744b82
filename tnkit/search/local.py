"""Local searches over ranks and the order of the modes: alternating enumeration (TnALE) and random sampling (TNLS).

Both move about a centre. TnALE goes along one coordinate at a time: each bond's rank within a radius, then each pair
of modes exchanged, back and forth until nothing changes. TNLS draws neighbours, with steps that cool. In the papers
every candidate is fitted from noise; here a fit starts from the centre's tensors, what the cuts forbid is left out, and
only those that promise after some sweeps are fitted to the end (`raced`).

References: TnALE: Li, Zeng, Li, Caiafa, Zhao, arXiv 2304.12875; TNLS: Li, Zeng, Tao, Zhao, arXiv 2206.06597.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import ClassVar

import torch

from tnkit.errors import OptionError
from tnkit.search.graph import Bond, Graph, chain, ring
from tnkit.search.objective import Trial
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting
from tnkit.search.raced import raced

__all__ = ["TNLS", "TnALE"]

_TEMPLATES = ("ring", "train", "full")
_ALL_ORDERS, _DRAWN = 6, 60  # modes up to which all orders are compared; orders that are drawn of more


def _first(shape: tuple[int, ...], template: str, rank: int) -> tuple[Graph, list[Bond]]:
    """Where to start, and the bonds that may be used."""
    d = len(shape)
    if template not in _TEMPLATES:
        raise OptionError(f"template={template!r} is unknown. Allowed: {', '.join(_TEMPLATES)}.")
    if template == "full" or d < 3:
        return Graph(shape, [(k,) for k in range(d)], {}), list(combinations(range(d), 2))
    graph = ring(shape, (rank,) * d) if template == "ring" else chain(shape, (rank,) * (d - 1))
    bonds = [(min(k, (k + 1) % d), max(k, (k + 1) % d)) for k in range(d if template == "ring" else d - 1)]
    return graph, bonds


def _exchanged(graph: Graph, a: int, b: int) -> Graph:
    """Two modes trade places."""
    nodes = list(graph.nodes)
    nodes[a], nodes[b] = nodes[b], nodes[a]
    return Graph(graph.shape, nodes, graph.ranks)


def _admitted(graphs: list[Graph], setting: Setting) -> list[Graph]:
    """Those that the cuts do not forbid to reach eps; all, where none can."""
    eps = setting.objective.eps
    if eps is None:
        return graphs
    return [graph for graph in graphs if setting.objective.bound(graph) <= eps] or graphs


def _orders(setting: Setting, graph: Graph, bonds: list[Bond]) -> list[Graph]:
    """The same bonds over other orders of the modes, the one first that the cuts admit at the least size."""
    d = len(graph.nodes)
    if d <= _ALL_ORDERS:
        orders = [(0, *rest) for rest in permutations(range(1, d)) if len(bonds) < d or rest[0] < rest[-1]]
    else:
        rng = setting.rng
        orders = [tuple(torch.randperm(d, generator=rng, device=rng.device).tolist()) for _ in range(_DRAWN)]
        orders = [tuple(range(d)), *orders]
    found = [Graph(graph.shape, [graph.nodes[k] for k in order], graph.ranks) for order in orders]
    return sorted(found, key=lambda g: _raised(setting, g, bonds).n_params)


def _raised(setting: Setting, graph: Graph, bonds: list[Bond]) -> Graph:
    """Ranks raised, one bond after the other, until no cut forbids eps any more."""
    eps = setting.objective.eps
    for _ in range(200):
        low = setting.objective.bound(graph)
        if eps is None or low <= eps or not bonds:
            return graph
        options = [graph.with_rank(b, graph.rank(b) + 1) for b in bonds]
        graph = min(options, key=lambda g: (setting.objective.bound(g), g.n_params))
    return graph


@dataclass(frozen=True, slots=True)
class TnALE(Proposer):
    """Alternating local enumeration.

    Attributes:
        template: "ring", "train" or "full" (a bond for every pair of modes).
        rank: of all bonds at the start.
        radius: ranks that are tried to either side.
        sweeps: rounds over all coordinates at the most.
        permute: whether modes trade places.
        orders: of the modes, in which the start is fitted: those that the cuts admit at the least size.
        steps: sweeps of each fit.
    """

    template: str = "ring"
    rank: int = 2
    radius: int = 1
    sweeps: int = 10
    permute: bool = True
    orders: int = 3
    steps: int = 40
    name: ClassVar[str] = "tnale"
    summary: ClassVar[str] = "alternating enumeration of ranks and of the order of the modes (arXiv 2304.12875)"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        graph, bonds = _first(setting.shape, self.template, self.rank)
        firsts = _orders(setting, graph, bonds) if self.permute and self.template != "full" else [graph]
        centre: Trial | None = None
        for first in firsts[: self.orders]:
            (trial,) = yield [Proposal(_raised(setting, first, bonds), steps=self.steps, starts=3)]
            if trial is not None:
                centre = trial if centre is None else min(centre, trial, key=setting.objective.score)
        radius = max(self.radius, 2)
        for _ in range(self.sweeps):
            before = centre
            for options in self.coordinates(bonds, len(setting.shape)):
                if centre is None:
                    return
                graphs = _admitted(list(options(centre.graph, radius)), setting)
                known = yield from raced(setting, [Proposal(g, centre, steps=self.steps) for g in graphs])
                centre = min([centre, *known], key=setting.objective.score)
            if centre is before:
                if radius <= self.radius:
                    return
                radius = self.radius
        return

    def coordinates(self, bonds: list[Bond], d: int) -> Iterator[_Ranks | _Swaps]:
        """There and back."""
        forward: list[_Ranks | _Swaps] = [_Ranks(bond) for bond in bonds]
        if self.permute and self.template != "full":
            forward += [_Swaps(k) for k in range(d - 1)]
        yield from forward
        yield from forward[-2::-1]


@dataclass(frozen=True, slots=True)
class _Ranks:
    bond: Bond

    def __call__(self, graph: Graph, radius: int) -> Iterator[Graph]:
        now = graph.rank(self.bond)
        for rank in range(max(1, now - radius), now + radius + 1):
            if rank != now:
                yield graph.with_rank(self.bond, rank)


@dataclass(frozen=True, slots=True)
class _Swaps:
    node: int

    def __call__(self, graph: Graph, radius: int) -> Iterator[Graph]:
        for other in range(self.node + 1, len(graph.nodes)):
            yield _exchanged(graph, self.node, other)


@dataclass(frozen=True, slots=True)
class TNLS(Proposer):
    """Random neighbours of the best, with steps that cool.

    Attributes:
        template: as for `TnALE`.
        rank: of all bonds at the start.
        samples: neighbours of a round.
        rounds: how many.
        width: standard deviation of the rank moves at the start; a round multiplies it by .9.
        swaps: probability of a trade of places at the start; a round multiplies it by .94.
        steps: sweeps of each fit.
    """

    template: str = "ring"
    rank: int = 2
    samples: int = 20
    rounds: int = 12
    width: float = 1.5
    swaps: float = 0.5
    steps: int = 40
    name: ClassVar[str] = "tnls"
    summary: ClassVar[str] = "random rank moves and transpositions about the best, cooling (arXiv 2206.06597)"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        graph, bonds = _first(setting.shape, self.template, self.rank)
        if self.template != "full":
            graph = _orders(setting, graph, bonds)[0]
        (centre,) = yield [Proposal(_raised(setting, graph, bonds), steps=self.steps, starts=3)]
        width, swaps = self.width, self.swaps
        for _ in range(self.rounds):
            if centre is None:
                return
            now = centre.graph
            graphs = [self.neighbour(now, bonds, width, swaps, setting.rng) for _ in range(self.samples)]
            unique = list({g.key: g for g in graphs if g.key != now.key}.values())
            asked = [Proposal(g, centre, steps=self.steps) for g in _admitted(unique, setting)]
            known = yield from raced(setting, asked, finalists=3)
            centre = min([centre, *known], key=setting.objective.score)
            width, swaps = 0.9 * width, 0.94 * swaps

    def neighbour(self, graph: Graph, bonds: list[Bond], width: float, swaps: float, rng: torch.Generator) -> Graph:
        """One draw."""
        noise = torch.randn(len(bonds), generator=rng, device=rng.device) * width
        for bond, move in zip(bonds, noise.round().tolist(), strict=True):
            graph = graph.with_rank(bond, max(1, graph.rank(bond) + int(move)))
        d = len(graph.nodes)
        if self.template != "full" and float(torch.rand((), generator=rng, device=rng.device)) < swaps:
            a, b = torch.randperm(d, generator=rng, device=rng.device)[:2].tolist()
            graph = _exchanged(graph, a, b)
        return graph


STRATEGIES.register(TnALE.name, TnALE)
STRATEGIES.register(TNLS.name, TNLS)
