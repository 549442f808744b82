"""Trees from the singular spectra of all cuts: candidates by dynamic programming, a proof of how far they can be off.

The cheapest tree at the ranks that each cut needs alone bounds every tree network from below (`tree_bounds`). The
cheapest ones at stricter levels, with their ranks chosen together, are fitted in the order of their estimates; what
cannot come below the best is not fitted. What is left between the best and the bound is the gap.

References: hierarchical SVD, Grasedyck 2010, doi:10.1137/090764189; the search over all trees and its bound are
tnkit's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import ClassVar

import numpy as np

from tnkit.search.graph import Graph
from tnkit.search.objective import DenseObjective
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting
from tnkit.search.tree_bounds import MOST_MODES, cheapest_trees
from tnkit.search.tree_fit import mask_beyond, size_at

__all__ = ["TreeSearch"]

_PATIENCE = 2  # starts that may gain nothing
_HOPELESS = 1.3  # times the best size, beyond which an estimate is not followed up


@dataclass(frozen=True, slots=True)
class TreeSearch(Proposer):
    """Fit the cheapest trees, and bound all of them.

    Attributes:
        levels: how many levels of loss are looked at.
        candidates: trees that are fitted at the most.
    """

    levels: int = 13
    candidates: int = 6
    name: ClassVar[str] = "trees"
    summary: ClassVar[str] = "all trees over the modes, by the singular values of all cuts, with a lower bound"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        objective = setting.objective
        if not isinstance(objective, DenseObjective) or objective.cuts is None or len(setting.shape) > MOST_MODES:
            yield [Proposal(_train(setting.shape), free_ranks=True)]
            return
        found = self.trees(objective, setting.bounds)
        best, failures = None, 0
        for estimate, graph in found[: self.candidates]:
            if best is not None and objective.reached(best.error):
                least = setting.bounds["any tree"]
                if best.graph.n_params <= least or estimate > _HOPELESS * best.graph.n_params or failures >= _PATIENCE:
                    break
            (trial,) = yield [Proposal(graph, free_ranks=True)]
            failures += 1
            if trial is not None and (best is None or objective.score(trial) < objective.score(best)):
                best, failures = trial, 0
        if best is not None and best.graph.n_params > setting.bounds.get("any tree", 0):
            yield [Proposal(best.graph, best, free_ranks=True)]

    def trees(self, objective: DenseObjective, bounds: dict[str, int]) -> list[tuple[float, Graph]]:
        """(estimate, tree), the best first; with an eps, puts the bound of all trees where bounds go."""
        cuts = objective.cuts
        assert cuts is not None
        allowed2 = None if objective.eps is None else (objective.eps * objective.norm) ** 2
        if allowed2 is None:
            levels = cuts.norm2 * np.geomspace(1e-8, 0.5, self.levels)
        else:
            # the first level is for the bound: what one cut alone may lose, and a little for the spectra's own error
            levels = allowed2 * np.append(1.001, np.geomspace(1.0, 0.03, self.levels))
        cheap = cheapest_trees(cuts.ranks(levels), objective.shape)
        if allowed2 is not None:
            bounds["any tree"] = ceil(cheap[0][0])
        unique = {graph.with_flat_ranks().key: graph for _, graph in cheap}
        told = sorted(((self.estimate(g, objective), g) for g in unique.values()), key=lambda pair: pair[0])
        return [pair for pair in told if pair[0] < inf]

    def estimate(self, graph: Graph, objective: DenseObjective) -> float:
        """Entries at ranks that are chosen together, or the loss where a size is asked."""
        fits = objective.trees
        if objective.eps is None and (
            objective.max_params is None or size_at(graph, dict.fromkeys(graph.ranks, 1)) > objective.max_params
        ):
            return inf
        ranks = fits.ranks(graph)
        if objective.eps is not None:
            return float(size_at(graph, ranks))
        return sum(float(fits.cuts.tails(mask_beyond(graph, bond))[r]) for bond, r in ranks.items())


def _train(shape: tuple[int, ...]) -> Graph:
    """In the given order; its ranks stand for bonds that are there, no more."""
    return Graph(shape, [(k,) for k in range(len(shape))], {(k, k + 1): 2 for k in range(len(shape) - 1)})


STRATEGIES.register(TreeSearch.name, TreeSearch)
