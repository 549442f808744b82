"""Random graphs: the baseline that every search has to beat.

Example:
    >>> import numpy as np, tnkit as tk
    >>> x = tk.random_format("tt", (4, 5, 6), 2, rng=0).to_dense().numpy()
    >>> tk.search(x, eps=0.5, strategy="random", max_evaluations=5).evaluations
    5
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch

from tnkit.search.graph import Graph
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting

__all__ = ["RandomSearch"]


@dataclass(frozen=True, slots=True)
class RandomSearch(Proposer):
    """Graphs with each bond there or not, and ranks drawn evenly.

    Attributes:
        count: graphs.
        max_rank: the largest rank.
        density: the share of the bonds that are there.
        steps: sweeps of each fit.
    """

    count: int = 200
    max_rank: int = 6
    density: float = 0.4
    steps: int = 40
    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "random graphs, the baseline"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        d = len(setting.shape)
        bonds = list(combinations(range(d), 2))
        for _ in range(self.count):
            there = torch.rand(len(bonds), generator=setting.rng, device=setting.rng.device) < self.density
            ranks = torch.randint(2, self.max_rank + 1, (len(bonds),), generator=setting.rng, device=setting.rng.device)
            chosen = {b: int(r) for b, t, r in zip(bonds, there.tolist(), ranks.tolist(), strict=True) if t}
            yield [Proposal(Graph(setting.shape, [(k,) for k in range(d)], chosen), steps=self.steps)]


STRATEGIES.register(RandomSearch.name, RandomSearch)
