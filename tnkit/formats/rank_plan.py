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

from tnkit.formats.rank_trading import conditional_spectra, nearby_ranks, reach, traded_ranks, work
from tnkit.formats.tree_fit import fit_small
from tnkit.formats.trees import Tree
from tnkit.linalg import choose_ranks, energy
from tnkit.network import Topology

__all__ = ["Limits", "RankPlan", "Truncated", "truncate_within"]

_ROUNDS = 6  # plans that are tried for one error budget
_SINGLES = 24  # single ranks that are then tried
_SMALL = 200_000  # entries up to which single ranks are tried
_TRADES = 8  # rounds of trading ranks between cuts
_NEARBY = 8  # ranks near the best that are then tried
_SWEEPS = 2  # of a fit
_FITTED = 2000  # times machine eps: the share of the energy above which a difference of energies is certain to 1 %
_TRADE_FLOPS = 8e9  # for them, roughly


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


def _terms(topology: Topology, bonds: Sequence[str], sizes: dict[str, int]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """For each node the product of its fixed sizes, and the positions of its bonds."""
    place = {bond: k for k, bond in enumerate(bonds)}
    return tuple(
        (
            prod(sizes[label] for label in labels if label not in place),
            tuple(place[label] for label in labels if label in place),
        )
        for labels in topology.inputs
    )


def _same_cuts(topology: Topology, bonds: Sequence[str], sizes: dict[str, int]) -> list[tuple[int, ...]]:
    """Bonds in groups that cut the tensor in the same two: those on either side of a node that has nothing else."""
    group = {bond: k for k, bond in enumerate(bonds)}
    for labels in topology.inputs:
        mine = [label for label in labels if label in group]
        others = prod(sizes[label] for label in labels if label not in group)
        if len(mine) == 2 and others == 1:
            a, b = group[mine[0]], group[mine[1]]
            group = {bond: a if g == b else g for bond, g in group.items()}
    order = sorted(set(group.values()))
    return [tuple(k for k, bond in enumerate(bonds) if group[bond] == g) for g in order]


class RankPlan:
    """A network that can be truncated in many ways: orthogonalised once, its spectra known.

    Args:
        tree: of the topology.
        tensors: any, for that topology.
        bonds: the labels that have ranks.
        root: the node that is the centre of the results.
        caps: the largest rank of each bond.
        max_params: entries that may be stored.
        thorough: with an error budget, also trade ranks by true errors, and fit what a truncation misses by little;
            within some seconds of work at most.
        sizes: of modes, where entries are to be counted for others than those of the tensors.
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
        thorough: bool = False,
        sizes: dict[str, int] | None = None,
    ) -> None:
        self.tree, self.bonds, self.root, self.max_params = tree, tuple(bonds), root, max_params
        self.thorough, self.gain, self.left = thorough, 1.0, 0
        self.start = tree.first_leaf(root)
        self.nodes = tree.orthogonalize([t.detach() for t in tensors], self.start)
        self.sizes = tree.topology.sizes([t.shape for t in self.nodes])
        whole = tuple(self.sizes[b] for b in self.bonds)
        self.caps = whole if caps is None else tuple(min(a, b) for a, b in zip(caps, whole, strict=True))
        self.groups = _same_cuts(tree.topology, self.bonds, self.sizes)
        self.tried: dict[tuple[int, ...], float] = {}  # ranks -> squared error
        self._last: tuple[tuple[int, ...], Truncated] | None = None  # one only: it may be as large as the array
        self._terms = _terms(tree.topology, self.bonds, self.sizes | (sizes or {}))

    @cached_property
    def spectra(self) -> list[Tensor]:
        """The squared singular values of the cut of each bond."""
        found = self.tree.spectra(self.nodes, self.start)
        return [found[b].cpu() if b in found else torch.ones(1, dtype=torch.float64) for b in self.bonds]

    def cost(self, ranks: tuple[int, ...]) -> int:
        """Entries at these ranks."""
        total = 0
        for fixed, positions in self._terms:
            for k in positions:
                fixed *= ranks[k]
            total += fixed
        return total

    def at(self, ranks: tuple[int, ...]) -> Truncated:
        """Truncate to these ranks."""
        if self._last is not None and self._last[0] == ranks:
            return self._last[1]
        self._last = None
        self.left -= 1
        done, lost = self.tree.truncate(self.nodes, dict(zip(self.bonds, ranks, strict=True)), self.root)
        sizes = self.tree.topology.sizes([t.shape for t in done])
        found = Truncated(tuple(t.contiguous() for t in done), lost, tuple(sizes[b] for b in self.bonds))
        self.tried[ranks] = self.tried[found.ranks] = lost
        self._last = (ranks, found)
        return found

    @cached_property
    def norm2(self) -> float:
        """The energy of the whole."""
        return energy(self.nodes[self.start].reshape(1, -1))

    def near(self, ranks: tuple[int, ...], error2: float) -> Truncated:
        """Truncate to these ranks; where that misses the error by little, fit to the network as well."""
        found = self.at(ranks)
        if error2 < found.lost2 and found.lost2 * self.gain <= 1.01 * error2:
            return self.fitted(found)
        return found

    def fitted(self, found: Truncated) -> Truncated:
        """The same ranks with a smaller error, by alternating least squares."""
        self.left -= 4
        nodes, lost2 = fit_small(self.tree, self.nodes, found.tensors, self.root, norm2=self.norm2, sweeps=_SWEEPS)
        if lost2 >= found.lost2:
            return found
        sizes = self.tree.topology.sizes([t.shape for t in nodes])
        better = Truncated(tuple(t.contiguous() for t in nodes), lost2, tuple(sizes[b] for b in self.bonds))
        self.tried[found.ranks] = self.tried[better.ranks] = lost2
        return better

    def best(self, error2: float | None) -> Truncated:
        """The truncation for an error budget within the caps and the size; None for the size or the caps alone."""
        if error2 is None:
            return self.at(self.caps) if self.max_params is None else self._filled(self.at(self._ranks(None)))
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
        if self.thorough:
            best = self._traded(best, error2)
        return self._singles(best, error2) if self.cost(best.ranks) <= _SMALL else best

    def _traded(self, best: Truncated, error2: float) -> Truncated:
        """Trade ranks between the cuts by true errors, from the best so far; then try what is near it."""
        if len(self.groups) < 2:
            return best
        self.left = int(_TRADE_FLOPS / (work(self.nodes) + 1.0))  # truncations, the unit of work
        if self.left < 10:
            return best
        caps = [min(self.caps[b] for b in g) for g in self.groups]
        at, margin, seen, done = best, 1.0, {best.ranks}, False
        if error2 > _FITTED * torch.finfo(self.nodes[0].dtype).eps * self.norm2:
            self.gain = min(max(self.fitted(best).lost2 / best.lost2, 0.7), 1.0) if best.lost2 > 0 else 1.0
        hoped = error2 / self.gain

        def cost(chosen: tuple[int, ...]) -> int:
            return self.cost(self._spread(chosen))

        for _ in range(_TRADES):
            if self.left < 0:
                break
            self.left -= 3
            spectra = self._spectra_near(at.ranks)
            here = tuple(at.ranks[g[0]] for g in self.groups)
            if not done:
                ranks = self._spread(traded_ranks(spectra, here, at.lost2, hoped * margin, cost, caps))
                done = ranks in seen
            if done:
                found = self._nearby(spectra, best, error2, caps) if at is best else best
                if found is best and at is best:
                    break
                at = best = found
                continue
            seen.add(ranks)
            at = self.near(ranks, error2)
            if self._fits(at, error2):
                margin = 1.0
                if self.cost(at.ranks) < self.cost(best.ranks):
                    best = at
            else:
                margin *= error2 / at.lost2
        return best

    def _spectra_near(self, ranks: tuple[int, ...]) -> list[Tensor]:
        """The spectra along single ranks, in a truncation that keeps what is within reach."""
        wide = tuple(min(r + reach(r), self.sizes[b]) for r, b in zip(ranks, self.bonds, strict=True))
        nodes = self.nodes
        if wide != tuple(self.sizes[b] for b in self.bonds):
            kept, _ = self.tree.truncate(self.nodes, dict(zip(self.bonds, wide, strict=True)), self.root)
            nodes = self.tree.orthogonalize(kept, self.start)
        return conditional_spectra(self.tree, nodes, self.bonds, self.groups, ranks, self.root)

    def _nearby(self, spectra: list[Tensor], best: Truncated, error2: float, caps: Sequence[int]) -> Truncated:
        """The cheapest ranks near the best that keep the error, or the best itself."""
        here = tuple(best.ranks[g[0]] for g in self.groups)
        near = nearby_ranks(spectra, here, best.lost2, error2 / self.gain, lambda r: self.cost(self._spread(r)), caps)
        options = [ranks for ranks in map(self._spread, near) if self.tried.get(ranks, 0.0) <= error2]
        for ranks in options[:_NEARBY]:
            if self.left < 0:
                break
            found = self.near(ranks, error2)
            if self._fits(found, error2) and self.cost(found.ranks) < self.cost(best.ranks):
                return found
        return best

    def _spread(self, chosen: tuple[int, ...]) -> tuple[int, ...]:
        """Ranks of all bonds from those of the groups."""
        ranks = [1] * len(self.bonds)
        for r, group in zip(chosen, self.groups, strict=True):
            for b in group:
                ranks[b] = r
        return tuple(ranks)

    def _ranks(self, error2: float | None) -> tuple[int, ...]:
        size = self.max_params
        if size is not None:
            size = max(size, self.cost((1,) * len(self.bonds)))
        firsts = [group[0] for group in self.groups]
        caps = [min(self.caps[b] for b in group) for group in self.groups]
        spectra = [self.spectra[b] for b in firsts]

        def cost(chosen: tuple[int, ...]) -> int:
            return self.cost(self._spread(chosen))

        return self._spread(choose_ranks(spectra, cost, max_error2=error2, max_cost=size, caps=caps))

    def _filled(self, found: Truncated) -> Truncated:
        """Raise ranks while the size admits it: the ranks that were chosen may not have been possible together."""
        assert self.max_params is not None
        for _ in range(_SINGLES):
            options = []
            for group in self.groups:
                up = tuple(r + (b in group) for b, r in enumerate(found.ranks))
                b = group[0]
                if (
                    all(up[k] <= self.caps[k] for k in group)
                    and self._possible(up, group)
                    and self.cost(up) <= self.max_params
                ):
                    gain = float(self.spectra[b][up[b] - 1]) / max(self.cost(up) - self.cost(found.ranks), 1)
                    options.append((gain, up))
            if not options:
                break
            grown = self.at(max(options)[1])
            if grown.ranks == found.ranks:
                break
            found = grown
        return found

    def _possible(self, ranks: tuple[int, ...], group: tuple[int, ...]) -> bool:
        """Whether the nodes at these bonds can have such ranks, given their other sides."""
        known = {**self.sizes, **dict(zip(self.bonds, ranks, strict=True))}
        topology = self.tree.topology
        for b in group:
            for node in topology.nodes_of(self.bonds[b]):
                if known[self.bonds[b]] ** 2 > prod(known[label] for label in topology.inputs[node]):
                    return False
        return True

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
            lower = [ranks for ranks in lower if self.tried.get(ranks, 0.0) <= error2]
            if not lower:
                break
            found = self.at(min(lower, key=self.cost))
            if self._fits(found, error2):
                best = found
        return best
