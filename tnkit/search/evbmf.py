"""Graphs whose ranks are those of empirical variational Bayes for each unfolding: see `tnkit.linalg.evbmf`.

For noise of unknown level: a train, a Tucker tensor and the cheapest tree, without an eps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tnkit.linalg.evbmf import evbmf_rank
from tnkit.search.graph import chain, star
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting
from tnkit.search.tree_bounds import MOST_MODES, cheapest_trees

__all__ = ["BayesRanks"]


@dataclass(frozen=True, slots=True)
class BayesRanks(Proposer):
    """Graphs whose ranks are those of EVBMF.

    Attributes:
        steps: sweeps of each fit.
    """

    steps: int = 60
    name: ClassVar[str] = "evbmf"
    summary: ClassVar[str] = "train, Tucker and cheapest tree at the ranks of variational Bayes, for noisy arrays"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        cuts, shape = setting.objective.cuts, setting.shape
        d = len(shape)
        if cuts is None:
            return
        whole = int(np.prod(shape))

        def rank(mask: int) -> int:
            rows = int(np.prod([n for k, n in enumerate(shape) if mask >> k & 1]))
            tails = np.asarray(cuts.tails(mask), dtype=float)
            s = np.sqrt(np.clip(tails[:-1] - tails[1:], 0, None))
            return max(1, evbmf_rank(s, *sorted((rows, whole // rows))))

        graphs = [chain(shape, [rank(2 ** (k + 1) - 1) for k in range(d - 1)])]
        if d > 2:
            graphs.append(star(shape, [rank(1 << k) for k in range(d)]))
        if d <= MOST_MODES:
            table = np.ones((1, 2**d))
            for mask in range(1, 2 ** (d - 1)):
                table[0, mask] = table[0, 2**d - 1 - mask] = rank(mask)
            graphs.append(cheapest_trees(table, shape)[0][1])
        yield [Proposal(graph, steps=self.steps) for graph in graphs]


STRATEGIES.register(BayesRanks.name, BayesRanks)
