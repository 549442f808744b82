"""Trees from the singular spectra of all cuts: candidates by dynamic programming, a proof of how far they can be off.

The cheapest tree at the ranks that each cut needs alone bounds every tree network from below (`tree_bounds`). The
cheapest ones at stricter levels, with their ranks chosen together, are fitted in the order of their estimates; what
cannot come below the best is not fitted. What is left between the best and the bound is the gap.

References: hierarchical SVD, Grasedyck 2010, doi:10.1137/090764189; the search over all trees and its bound are
tnkit's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import ClassVar

import numpy as np

from tnkit.linalg import choose_ranks
from tnkit.search.graph import Graph
from tnkit.search.objective import Objective
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting
from tnkit.search.tree_bounds import MOST_MODES, cheapest_trees

__all__ = ["TreeSearch"]

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
        if objective.cuts is None or len(setting.shape) > MOST_MODES:
            yield [Proposal(_train(setting.shape), free_ranks=True)]
            return
        found = self.trees(objective, setting.bounds)
        first = yield [Proposal(_train(setting.shape), free_ranks=True)]
        best = first[0]
        for estimate, graph in found[: self.candidates]:
            if best is not None and objective.reached(best.error) and estimate > _HOPELESS * best.graph.n_params:
                break
            (trial,) = yield [Proposal(graph, free_ranks=True)]
            if trial is not None and (best is None or objective.score(trial) < objective.score(best)):
                best = trial

    def trees(self, objective: Objective, bounds: dict[str, int]) -> list[tuple[float, Graph]]:
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
        return sorted(((self.estimate(g, objective), g) for g in unique.values()), key=lambda pair: pair[0])

    def estimate(self, graph: Graph, objective: Objective) -> float:
        """Entries at ranks that are chosen together, or the loss where a size is asked."""
        cuts, bonds = objective.cuts, list(graph.ranks)
        assert cuts is not None
        spectra = [cuts.energies(mask_beyond(graph, bond)) for bond in bonds]

        def cost(ranks: tuple[int, ...]) -> int:
            known = dict(zip(bonds, ranks, strict=True))
            return sum(
                prod(graph.shape[k] for k in modes) * prod(r for b, r in known.items() if node in b)
                for node, modes in enumerate(graph.nodes)
            )

        if objective.eps is not None:
            # tails of many cuts overlap, so that their sum is allowed to be larger than the error by about half of each
            more = 1.0 + 0.5 * max(len(bonds) - 1, 0)
            allowed2 = (objective.eps * objective.norm) ** 2
            return float(cost(choose_ranks(spectra, cost, max_error2=allowed2 * more)))
        size = objective.max_params
        if size is None or cost((1,) * len(bonds)) > size:
            return float("inf")
        ranks = choose_ranks(spectra, cost, max_cost=size)
        return sum(float(e[r:].sum()) for e, r in zip(spectra, ranks, strict=True))


def mask_beyond(graph: Graph, bond: tuple[int, int]) -> int:
    """The modes on one side of a bond of a tree."""
    seen, stack = {bond[0]}, [bond[0]]
    while stack:
        node = stack.pop()
        for other in graph.ranks:
            if node in other and other != bond:
                (far,) = set(other) - {node}
                if far not in seen:
                    seen.add(far)
                    stack.append(far)
    return sum(1 << k for node in seen for k in graph.nodes[node])


def _train(shape: tuple[int, ...]) -> Graph:
    """In the given order; its ranks stand for bonds that are there, no more."""
    return Graph(shape, [(k,) for k in range(len(shape))], {(k, k + 1): 2 for k in range(len(shape) - 1)})


STRATEGIES.register(TreeSearch.name, TreeSearch)
