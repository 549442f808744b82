"""Choose the ranks of a tree network under one budget of error or size, and truncate it to them.

The tails of all cuts together bound the error of a truncation. What the bound overstates, and what whole ranks leave
unused, is slack: it is spent again, by planning with a larger bound while the true error stays within what is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, sqrt

import torch
from torch import Tensor

from tnkit.formats.trees import Tree
from tnkit.linalg import choose_ranks
from tnkit.network import Topology

__all__ = ["Limits", "Truncated", "entries", "truncate_within"]

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


def truncate_within(tree: Tree, tensors: Sequence[Tensor], bonds: Sequence[str], limits: Limits, root: int = 0) -> Truncated:
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
    start = tree.first_leaf(root)
    with torch.no_grad():
        nodes = tree.orthogonalize([t.detach() for t in tensors], start)
        if limits.error2 is None and limits.max_params is None:
            return _at(tree, nodes, bonds, limits.caps, root)
        return _Plan(tree, nodes, bonds, limits, root, start).best()


def _at(tree: Tree, nodes: Sequence[Tensor], bonds: Sequence[str], ranks: tuple[int, ...] | None, root: int) -> Truncated:
    asked = {} if ranks is None else dict(zip(bonds, ranks, strict=True))
    done, lost = tree.truncate(nodes, asked, root)
    sizes = tree.topology.sizes([t.shape for t in done])
    return Truncated(tuple(t.contiguous() for t in done), lost, tuple(sizes[b] for b in bonds))


class _Plan:
    """The search over budgets."""

    def __init__(
        self, tree: Tree, nodes: list[Tensor], bonds: Sequence[str], limits: Limits, root: int, start: int
    ) -> None:
        self.tree, self.nodes, self.bonds, self.limits, self.root = tree, nodes, bonds, limits, root
        self.sizes = tree.topology.sizes([t.shape for t in nodes])
        found = tree.spectra(nodes, start)
        one = torch.ones(1, dtype=torch.float64)
        self.spectra = [found[b].cpu() if b in found else one for b in bonds]
        lengths = [len(s) for s in self.spectra]
        self.caps = tuple(lengths if limits.caps is None else (min(a, b) for a, b in zip(limits.caps, lengths, strict=True)))
        self.tried: dict[tuple[int, ...], Truncated] = {}

    def cost(self, ranks: tuple[int, ...]) -> int:
        return entries(self.tree.topology, self.bonds, ranks, self.sizes)

    def ranks(self, error2: float | None) -> tuple[int, ...]:
        size = self.limits.max_params
        if size is not None:
            size = max(size, self.cost((1,) * len(self.bonds)))
        return choose_ranks(self.spectra, self.cost, max_error2=error2, max_cost=size, caps=self.caps)

    def attempt(self, ranks: tuple[int, ...]) -> Truncated:
        if ranks not in self.tried:
            self.tried[ranks] = _at(self.tree, self.nodes, self.bonds, ranks, self.root)
        return self.tried[ranks]

    def fits(self, found: Truncated) -> bool:
        size = self.limits.max_params
        assert self.limits.error2 is not None
        return found.lost2 <= self.limits.error2 and (size is None or self.cost(found.ranks) <= size)

    def best(self) -> Truncated:
        allowed = self.limits.error2
        if allowed is None:
            return self.attempt(self.ranks(None))
        best = self.attempt(self.ranks(allowed))
        if not self.fits(best) or allowed <= 0:
            return best
        low, high = allowed, None
        found = best
        for _ in range(_ROUNDS):
            slack = allowed / found.lost2 if found.lost2 > 0 else 16.0
            budget = low * min(slack, 16.0) if high is None else sqrt(low * high)
            if budget <= low * 1.01:
                break
            found = self.attempt(self.ranks(budget))
            if self.fits(found):
                low = budget
                if self.cost(found.ranks) <= self.cost(best.ranks):
                    best = found
            else:
                high = budget
        return self.singles(best)

    def singles(self, best: Truncated) -> Truncated:
        """Lower one rank at a time while the true error allows."""
        if self.cost(best.ranks) > _SMALL:
            return best
        assert self.limits.error2 is not None
        for _ in range(_SINGLES):
            slack = self.limits.error2 - best.lost2
            lower = [
                (*best.ranks[:b], r - 1, *best.ranks[b + 1 :])
                for b, r in enumerate(best.ranks)
                if r > 1 and float(self.spectra[b][r - 1]) <= 2.0 * slack
            ]
            lower = [ranks for ranks in lower if ranks not in self.tried]
            if not lower:
                break
            found = self.attempt(min(lower, key=self.cost))
            if self.fits(found):
                best = found
        return best
