"""Proposer: an algorithm that asks for graphs to be fitted and is told what came out.

It is a frozen config whose `propose` is a generator: it yields batches of proposals (asks), and receives the trials of
each (is told). The runner fits, remembers, bounds, counts and stops, so a proposer is its paper and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch

from tnkit.registry import Registry
from tnkit.search.graph import Graph
from tnkit.search.objective import Objective, Trial

__all__ = ["STRATEGIES", "Conversation", "Proposal", "Proposer", "Setting"]


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """A graph to be fitted.

    Attributes:
        graph: the structure with its ranks.
        parent: a trial from whose tensors the fit may start.
        free_ranks: of a tree: let what is asked choose the ranks, and the shape from this one; with a parent, look more
            closely at that one.
        steps: sweeps at the most.
        starts: how many, the parent's among them.
        afresh: fit it again where it was fitted before: this parent is another way to it.
        number: fits of a graph with other numbers draw other random numbers, and are remembered apart.
    """

    graph: Graph
    parent: Trial | None = None
    free_ranks: bool = False
    steps: int = 60
    starts: int = 1
    afresh: bool = False
    number: int = 0

    def answered(self, known: Trial) -> bool:
        """Whether an earlier fit of the same graph had as much work put into it."""
        return self.free_ranks or (known.effort >= self.steps * self.starts and not self.afresh)


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What a proposer knows.

    Attributes:
        objective: what is fitted, with the spectra of all cuts.
        rng: random numbers.
        bounds: where a proposer puts (what, lower bound of the size) that it has proved.
    """

    objective: Objective
    rng: torch.Generator
    bounds: dict[str, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.objective.shape


#: Asks by yielding, is told by what `yield` gives: a trial for each proposal, None where it was pruned or refused.
Conversation: TypeAlias = "Generator[list[Proposal], list[Trial | None], None]"


class Proposer(ABC):
    """A search algorithm. Concrete ones are frozen dataclasses, registered in `STRATEGIES`.

    Class attributes:
        name: in the registry.
        summary: one sentence.
        needs_eps: whether it does nothing where a size alone is asked.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    needs_eps: ClassVar[bool] = False

    @abstractmethod
    def propose(self, setting: Setting) -> Conversation:
        """Ask and be told, until there is nothing left to ask."""


#: name -> class of a proposer.
STRATEGIES: Registry[type[Proposer]] = Registry("search strategy")
