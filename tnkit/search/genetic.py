"""Evolution of graphs (TNGA).

A population of graphs, each the upper half of a matrix of ranks. Its fitness is the size beside that of the array, and
λ times the error (where eps is asked: what is above it). The fittest live on; the others give way to children of two
parents: a child has the ranks of one, and those at some nodes of the other. Some of its bonds are drawn anew.

In the paper the first graphs have random ranks, and every graph is fitted from noise. Here the first graphs have random
bonds and the least ranks on them that the cuts admit, and children that a cut forbids grow until none does, so that no
fit is spent on what cannot reach eps. Where warm starts are on, the first graphs start from the tensors of the smallest
of them and a child from those of its first parent, and only what promises after some sweeps is fitted to the end
(`raced`).

Reference: Li & Sun, Evolutionary Topology Search for Tensor Network Decomposition, ICML 2020.

Example:
    >>> import tnkit as tk
    >>> x = tk.random_format("tt", (4, 4, 4), 2, rng=0).to_dense()
    >>> tk.search(x, eps=1e-4, strategy=TNGA(population=8, generations=4)).best.fit.rel_error <= 1e-4
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf, prod
from typing import ClassVar

import numpy as np
import torch

from tnkit.search.cut_needs import needs
from tnkit.search.graph import Bond, Graph
from tnkit.search.least_ranks import least_ranks
from tnkit.search.objective import Trial
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting
from tnkit.search.raced import raced

__all__ = ["TNGA"]

_STARTS = 3  # of the first fit, from whose tensors the others start


@dataclass(frozen=True, slots=True)
class TNGA(Proposer):
    """Evolution.

    Attributes:
        population: graphs in each generation.
        generations: how many.
        max_rank: the largest rank that is drawn.
        density: share of the bonds of the first graphs that are there.
        mutation: probability that a bond of a child is drawn anew.
        weight: λ, what error counts beside size.
        survivors: share of the population that lives on.
        steps: sweeps of each fit.
    """

    population: int = 30
    generations: int = 20
    max_rank: int = 6
    density: float = 0.4
    mutation: float = 0.05
    weight: float = 10.0
    survivors: float = 0.3
    steps: int = 40
    name: ClassVar[str] = "tnga"
    summary: ClassVar[str] = "evolution: crossover of the bonds of nodes, and mutation (ICML 2020)"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        bonds = list(combinations(range(len(setting.shape)), 2))
        drawn = [self.drawn(setting, bonds, [1] * len(bonds), self.density) for _ in range(self.population)]
        first = sorted(self.admitted(drawn, setting, least=True).values(), key=lambda g: g.n_params)
        known: dict[str, Trial] = {}
        begun: Trial | None = None
        if setting.objective.warm:
            (begun,) = yield [Proposal(first[0], steps=self.steps, starts=_STARTS)]
            known = {} if begun is None else {begun.graph.key: begun}
        asked: list[tuple[Graph, Trial | None]] = [(g, begun) for g in first if g.key not in known]
        for _ in range(self.generations):
            proposals = [Proposal(g, parent, steps=self.steps) for g, parent in asked]
            trials = yield from raced(setting, proposals, finalists=max(2, self.population // 6))
            known |= {t.graph.key: t for t in trials}
            if not known:
                return
            alive = sorted(known.values(), key=lambda t: self.fitness(t, setting))
            alive = alive[: max(2, round(self.survivors * self.population))]
            known = {t.graph.key: t for t in alive}
            children = [self.child(alive, bonds, setting) for _ in range(self.population - len(alive))]
            parents = {g.key: parent for g, parent in children}
            grown = self.admitted([g for g, _ in children], setting)
            asked = [(g, parents[key]) for key, g in grown.items()]

    def admitted(self, graphs: list[Graph], setting: Setting, *, least: bool = False) -> dict[str, Graph]:
        """By the key of each graph the one that no cut forbids eps: grown, or with the least ranks on its bonds."""
        objective, d = setting.objective, len(setting.shape)
        unique = {g.key: g for g in graphs}
        if objective.eps is None or objective.cuts is None:
            return unique
        wanted, bonds = needs(objective), list(combinations(range(d), 2))
        found = dict[str, Graph]()
        for key, graph in unique.items():
            ranks = np.array([[graph.rank(bond) for bond in bonds]], dtype=float)
            made = least_ranks(graph.shape, wanted, ranks > 1, None if least else ranks)
            found.update((key, g) for g in made)
        return found or unique

    def fitness(self, trial: Trial, setting: Setting) -> float:
        """To be least."""
        objective = setting.objective
        if objective.max_params is not None and trial.graph.n_params > objective.max_params:
            return inf
        above = trial.error if objective.eps is None else max(trial.error - objective.eps, 0.0)
        size = 0.0 if objective.eps is None else trial.graph.n_params / prod(setting.shape)
        return size + self.weight * above

    def drawn(self, setting: Setting, bonds: list[Bond], ranks: Sequence[int], share: float) -> Graph:
        """Ranks of which a share is drawn anew; half of those are no bond."""
        rng, found = setting.rng, {}
        change = torch.rand(len(bonds), generator=rng, device=rng.device) < share
        new = torch.randint(2, self.max_rank + 1, (len(bonds),), generator=rng, device=rng.device)
        there = torch.rand(len(bonds), generator=rng, device=rng.device) < 0.5
        first = all(r == 1 for r in ranks)
        for bond, old, c, r, t in zip(bonds, ranks, change.tolist(), new.tolist(), there.tolist(), strict=True):
            found[bond] = old if not c else r if t or first else 1
        return Graph(setting.shape, [(k,) for k in range(len(setting.shape))], found)

    def child(self, alive: list[Trial], bonds: list[Bond], setting: Setting) -> tuple[Graph, Trial]:
        """Of two parents, the fitter ones more often."""
        rng, count = setting.rng, len(alive)
        odds = 1.0 / torch.arange(1, count + 1, dtype=torch.float64, device=rng.device)
        a, b = torch.multinomial(odds, 2, replacement=count < 2, generator=rng).tolist()
        swapped = torch.rand(len(setting.shape), generator=rng, device=rng.device) < 0.5
        ranks = [
            alive[b].graph.rank(bond) if swapped[bond[0]] and swapped[bond[1]] else alive[a].graph.rank(bond)
            for bond in bonds
        ]
        return self.drawn(setting, bonds, ranks, self.mutation), alive[a]


STRATEGIES.register(TNGA.name, TNGA)
