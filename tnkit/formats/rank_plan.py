"""Choose the ranks of a tree network under one budget of error or size, and truncate it to them.

The tails of all cuts together bound the error of a truncation. What the bound overstates, and what whole ranks leave
unused, is slack: it is spent again, by planning with a larger bound while the true error stays within what is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, prod, sqrt

import torch
from torch import Tensor

from tnkit.formats.trees import Tree
from tnkit.linalg import choose_ranks
from tnkit.network import Topology

__all__ = ["Limits", "RankPlan", "Truncated", "entries", "truncate_within"]

_ROUNDS = 6  # plans that are tried for one error budget
_SINGLES = 24  # single ranks that are then tried
_SMALL = 200_000  # entries up to which single ranks are tried


@dataclass(frozen=True, slots=True)
class Limits:
    """What a truncation has to keep; what is None does not bind.

    Attributes:
        caps: the largest rank of each bond, in the order of the bonds; the ranks themselves if nothing else is given.
        error2: the squared error that is allowed.
        max_params: entries that may be stored.
    """

    caps: tuple[int, ...] | None = None
    error2: float | None = None
    max_params: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Truncated:
    """What a truncation gives.

    Attributes:
        tensors: contiguous, orthogonalised to the root.
        lost2: the squared error.
        ranks: of the bonds.
    """

    tensors: tuple[Tensor, ...]
    lost2: float
    ranks: tuple[int, ...]


def entries(topology: Topology, bonds: Sequence[str], ranks: Sequence[int], sizes: dict[str, int]) -> int:
    """How many entries the tensors have when the bonds have these ranks."""
    known = {**sizes, **dict(zip(bonds, ranks, strict=True))}
    return sum(prod(known[label] for label in labels) for labels in topology.inputs)


def truncate_within(
    tree: Tree, tensors: Sequence[Tensor], bonds: Sequence[str], limits: Limits, root: int = 0
) -> Truncated:
    """The smallest truncation that keeps the limits, in the compressed domain.

    Args:
        tree: of the topology.
        tensors: any, for that topology.
        bonds: the labels that have ranks, in the order of `limits.caps`.
        limits: caps alone give those ranks (or what the tensor needs, if that is less).
        root: the node that is the centre of the result.

    Returns:
        with an error budget the fewest entries found; with a size budget the least error; with both the first if it
        fits the second, else the second.
    """
    plan = RankPlan(tree, tensors, bonds, root=root, caps=limits.caps, max_params=limits.max_params)
    return plan.best(limits.error2)


class RankPlan:
    """A network that can be truncated in many ways: orthogonalised once, its spectra known.

    Args:
        tree: of the topology.
        tensors: any, for that topology.
        bonds: the labels that have ranks.
        root: the node that is the centre of the results.
        caps: the largest rank of each bond.
        max_params: entries that may be stored.
    """

    def __init__(
        self,
        tree: Tree,
        tensors: Sequence[Tensor],
        bonds: Sequence[str],
        *,
        root: int = 0,
        caps: Sequence[int] | None = None,
        max_params: int | None = None,
    ) -> None:
        self.tree, self.bonds, self.root, self.max_params = tree, tuple(bonds), root, max_params
        self.start = tree.first_leaf(root)
        self.nodes = tree.orthogonalize([t.detach() for t in tensors], self.start)
        self.sizes = tree.topology.sizes([t.shape for t in self.nodes])
        whole = tuple(self.sizes[b] for b in self.bonds)
        self.caps = whole if caps is None else tuple(min(a, b) for a, b in zip(caps, whole, strict=True))
        self.tried: dict[tuple[int, ...], Truncated] = {}

    @cached_property
    def spectra(self) -> list[Tensor]:
        """The squared singular values of the cut of each bond."""
        found = self.tree.spectra(self.nodes, self.start)
        return [found[b].cpu() if b in found else torch.ones(1, dtype=torch.float64) for b in self.bonds]

    def cost(self, ranks: tuple[int, ...]) -> int:
        """Entries at these ranks."""
        return entries(self.tree.topology, self.bonds, ranks, self.sizes)

    def at(self, ranks: tuple[int, ...]) -> Truncated:
        """Truncate to these ranks."""
        if ranks not in self.tried:
            done, lost = self.tree.truncate(self.nodes, dict(zip(self.bonds, ranks, strict=True)), self.root)
            sizes = self.tree.topology.sizes([t.shape for t in done])
            found = Truncated(tuple(t.contiguous() for t in done), lost, tuple(sizes[b] for b in self.bonds))
            self.tried[ranks] = found
        return self.tried[ranks]

    def best(self, error2: float | None) -> Truncated:
        """The truncation for an error budget within the caps and the size; None for the size or the caps alone."""
        if error2 is None:
            return self.at(self.caps if self.max_params is None else self._ranks(None))
        best = self.at(self._ranks(error2))
        if not self._fits(best, error2) or error2 <= 0:
            return best
        low, high = error2, inf
        found = best
        for _ in range(_ROUNDS):
            slack = error2 / found.lost2 if found.lost2 > 0 else 16.0
            budget = low * min(slack, 16.0) if high == inf else sqrt(low * high)
            if budget <= low * 1.01:
                break
            found = self.at(self._ranks(budget))
            if self._fits(found, error2):
                low = budget
                if self.cost(found.ranks) <= self.cost(best.ranks):
                    best = found
            else:
                high = budget
        return self._singles(best, error2) if self.cost(best.ranks) <= _SMALL else best

    def _ranks(self, error2: float | None) -> tuple[int, ...]:
        size = self.max_params
        if size is not None:
            size = max(size, self.cost((1,) * len(self.bonds)))
        ranks = choose_ranks(self.spectra, self.cost, max_error2=error2, max_cost=size, caps=self.caps)
        return ranks if size is None else self._usable(ranks, size)

    def _usable(self, ranks: tuple[int, ...], size: int) -> tuple[int, ...]:
        """Take away what a node cannot use (a rank above the product of its other sides), and spend it elsewhere."""
        caps = self.caps
        for _ in range(len(ranks)):
            possible = self._possible(ranks)
            if possible == ranks:
                break
            caps = tuple(p if p < r else c for p, r, c in zip(possible, ranks, caps, strict=True))
            ranks = choose_ranks(self.spectra, self.cost, max_cost=size, caps=caps)
        ranks = self._possible(ranks)
        while True:
            grown = [(*ranks[:b], r + 1, *ranks[b + 1 :]) for b, r in enumerate(ranks) if r < self.caps[b]]
            grown = [g for g in grown if self.cost(g) <= size and self._possible(g) == g]
            if not grown:
                return ranks
            ranks = max(grown, key=lambda g: sum(float(s[r - 1]) for s, r in zip(self.spectra, g, strict=True)))

    def _possible(self, ranks: tuple[int, ...]) -> tuple[int, ...]:
        """The ranks, each at most the product of the other sides of both its nodes."""
        known = {**self.sizes, **dict(zip(self.bonds, ranks, strict=True))}
        changed = True
        while changed:
            changed = False
            for bond in self.bonds:
                for node in self.tree.topology.nodes_of(bond):
                    others = prod(known[label] for label in self.tree.topology.inputs[node] if label != bond)
                    if known[bond] > others:
                        known[bond], changed = others, True
        return tuple(known[bond] for bond in self.bonds)

    def _fits(self, found: Truncated, error2: float) -> bool:
        return found.lost2 <= error2 and (self.max_params is None or self.cost(found.ranks) <= self.max_params)

    def _singles(self, best: Truncated, error2: float) -> Truncated:
        """Lower one rank at a time while the true error allows."""
        for _ in range(_SINGLES):
            slack = error2 - best.lost2
            lower = [
                (*best.ranks[:b], r - 1, *best.ranks[b + 1 :])
                for b, r in enumerate(best.ranks)
                if r > 1 and float(self.spectra[b][r - 1]) <= 2.0 * slack
            ]
            lower = [ranks for ranks in lower if ranks not in self.tried]
            if not lower:
                break
            found = self.at(min(lower, key=self.cost))
            if self._fits(found, error2):
                best = found
        return best
