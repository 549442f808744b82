"""Simulated annealing over graphs: a baseline.

From one graph a random neighbour (a rank one up or down, a bond moved to another pair of nodes) is fitted, starting
from the tensors that are there. It is taken if its energy is less, and else with the probability that the temperature
gives. The energy is the logarithm of the size and, above eps, that of the error in units of eps.

Reference: Kirkpatrick, Gelatt, Vecchi 1983, doi:10.1126/science.220.4598.671.

Example:
    >>> import tnkit as tk
    >>> x = tk.random_format("tt", (4, 4, 4), 2, rng=0).to_dense()
    >>> tk.search(x, eps=1e-4, strategy=Annealing(moves=60)).best.fit.rel_error <= 1e-4
    True
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import exp, inf, log
from typing import ClassVar

import torch

from tnkit.search.graph import Bond, Graph, chain
from tnkit.search.objective import Trial
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting

__all__ = ["Annealing"]


@dataclass(frozen=True, slots=True)
class Annealing(Proposer):
    """Random moves that cool.

    Attributes:
        moves: how many.
        hot: the temperature at the start, in units of the logarithm of the size.
        cold: at the end.
        weight: what the logarithm of the error counts.
        steps: sweeps of each fit.
    """

    moves: int = 300
    hot: float = 0.5
    cold: float = 0.01
    weight: float = 3.0
    steps: int = 30
    name: ClassVar[str] = "annealing"
    summary: ClassVar[str] = "simulated annealing over ranks and bonds, a baseline"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        bonds = list(combinations(range(len(setting.shape)), 2))
        (now,) = yield [Proposal(chain(setting.shape, (2,) * (len(setting.shape) - 1)), steps=self.steps)]
        rng = setting.rng
        for move in range(self.moves):
            if now is None:
                return
            graph = self.neighbour(now.graph, bonds, rng)
            (trial,) = yield [Proposal(graph, now, steps=self.steps)]
            if trial is None:
                continue
            heat = self.hot * (self.cold / self.hot) ** (move / max(self.moves - 1, 1))
            rise = self.energy(trial, setting) - self.energy(now, setting)
            if rise <= 0 or float(torch.rand((), generator=rng, device=rng.device)) < exp(-rise / heat):
                now = trial

    def energy(self, trial: Trial, setting: Setting) -> float:
        """To be least."""
        objective, size, error = setting.objective, trial.graph.n_params, max(trial.error, 1e-300)
        if objective.eps is None:
            too_large = objective.max_params is not None and size > objective.max_params
            return inf if too_large else self.weight * log(error)
        return log(size) + self.weight * max(log(error / max(objective.eps, 1e-300)), 0.0)

    def neighbour(self, graph: Graph, bonds: list[Bond], rng: torch.Generator) -> Graph:
        """One move."""

        def pick(count: int) -> int:
            return int(torch.randint(count, (), generator=rng, device=rng.device))

        kind, bond = pick(3), bonds[pick(len(bonds))]
        if kind == 0:
            return graph.with_rank(bond, graph.rank(bond) + 1)
        there = list(graph.ranks)
        if not there:
            return graph.with_rank(bond, 2)
        old = there[pick(len(there))]
        rank = graph.rank(old)
        lower = graph.with_rank(old, rank - 1 if kind == 1 else 1)
        return lower if kind == 1 else lower.with_rank(bond, max(rank, graph.rank(bond)))


STRATEGIES.register(Annealing.name, Annealing)
