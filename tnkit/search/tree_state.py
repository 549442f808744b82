"""A tree network of a dense array that changes its ranks and its shape while it is fitted: the state and its moves.

All nodes but one, the centre, are isometries towards it, so that the best centre is the projection of the array on the
others, and the squared error is what the projection leaves. A bond is fitted with the two nodes at its ends merged into
one, the pair: the singular values of the pair, split in two, give the error for every rank of the bond at once, all
else as it is (the two-site DMRG step: Schollwöck 2011, doi:10.1016/j.aop.2010.09.012). The pair may also be split
otherwise than it was, or stay one node (Hikihara, Ueda, Okunishi, Harada, Nishino, arXiv 2209.03196).

The two ends of a bond of rank r take r (p + q) numbers, where p and q are what their other legs come to. So a singular
value s is worth keeping if it saves more than p + q: at a price μ of the squared error, if μ s² > p + q. A split costs
Σ min(p + q, μ s²), the whole pair p q, and the least of these is taken. No move raises entries + μ error².

Example:
    >>> import torch
    >>> x = torch.einsum("ik,jl->ijkl", torch.eye(4), torch.eye(4)).double()
    >>> state = TreeState.star(x, x.shape)
    >>> for _ in range(3):
    ...     state.sweep(1e4, reshape=True)
    >>> state.n_params, round(state.error2, 9)  # the two pairs of modes, apart
    (32, 0.0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf, prod
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tnkit.formats.trees import absorb, unfold
from tnkit.linalg import energy, spectrum
from tnkit.search.graph import Bond, Graph

__all__ = ["Cut", "Tails", "TreeState"]

#: The modes on one side of a cut, a bit mask -> its squared errors at ranks 0, 1, ….
Tails: TypeAlias = "Callable[[int], NDArray[np.float64]]"

_ALL_SPLITS = 6  # legs of a pair up to which all its splits are looked at
_WIDE = 700  # the shorter side of a split above which only the one that is there is looked at


@dataclass(frozen=True, slots=True)
class Cut:
    """What is known of a bond when its pair has been fitted.

    Attributes:
        price: entries for each rank.
        s2: the squared singular values of the pair, falling.
        rank: that was chosen.
    """

    price: int
    s2: Tensor
    rank: int


class TreeState:
    """A tree that is fitted to an array; it changes.

    Args:
        x: (m_0 …), the array, or its core in orthonormal bases of its modes.
        sizes: of the modes, for counting entries: n_k ≥ m_k.
        legs: of each node: modes 0 … d − 1, and bonds, numbers from d on.
        tensors: of each node, its axes in the order of the legs; all but the centre isometries towards it.
        centre: the node that is none.
    """

    def __init__(
        self,
        x: Tensor,
        sizes: Sequence[int],
        legs: Mapping[int, Sequence[int]],
        tensors: Mapping[int, Tensor],
        centre: int,
    ) -> None:
        self.x, self.sizes, self.norm2 = x, tuple(sizes), energy(x.reshape(1, -1))
        self.legs = {node: list(own) for node, own in legs.items()}
        self.tensors, self.centre = dict(tensors), centre
        self.known: dict[int, Cut] = {}
        self.tails: Tails | None = None  # what every cut of the array loses at each rank, by its modes, to skip splits
        self.floor2: float | None = None  # tails below which spectra need not be exact; None: as exact as can be
        self._chain: list[tuple[int, Tensor, int, Tensor, list[int]]] = []  # (node, its tensor, outgoing leg, result)

    @staticmethod
    def star(x: Tensor, sizes: Sequence[int]) -> TreeState:
        """The exact Tucker tensor with the array as its core."""
        d = x.ndim
        legs = {k: [k, d + k] for k in range(d)} | {d: list(range(d, 2 * d))}
        eyes = {k: torch.eye(m, dtype=x.dtype, device=x.device) for k, m in enumerate(x.shape)}
        return TreeState(x, sizes, legs, eyes | {d: x}, d)

    def copy(self) -> TreeState:
        """The same, to be changed apart from this one; tensors are shared, and never changed in place."""
        other = TreeState.__new__(TreeState)
        other.x, other.sizes, other.norm2, other.centre = self.x, self.sizes, self.norm2, self.centre
        other.legs = {node: list(own) for node, own in self.legs.items()}
        other.tensors, other.known, other._chain = dict(self.tensors), dict(self.known), list(self._chain)
        other.floor2, other.tails = self.floor2, self.tails
        return other

    # -- what it is

    @property
    def bonds(self) -> dict[int, tuple[int, int]]:
        """The two nodes of each bond."""
        found: dict[int, list[int]] = {}
        for node, own in self.legs.items():
            for leg in own:
                if leg >= self.x.ndim:
                    found.setdefault(leg, []).append(node)
        return {leg: (ends[0], ends[1]) for leg, ends in found.items()}

    def size(self, leg: int, node: int) -> int:
        """Entries along a leg."""
        return self.sizes[leg] if leg < self.x.ndim else self.tensors[node].shape[self.legs[node].index(leg)]

    @property
    def n_params(self) -> int:
        """Entries of all nodes, the modes at their full sizes."""
        return sum(prod(self.size(leg, node) for leg in own) for node, own in self.legs.items())

    @property
    def error2(self) -> float:
        """The squared error of the array that is fitted, as a difference of energies."""
        return max(self.norm2 - energy(self.tensors[self.centre].reshape(1, -1)), 0.0)

    def graph(self) -> tuple[Graph, dict[int, int]]:
        """The structure, and the place of each node in it. Nodes with modes come first; nothing is left of rank 1."""
        live = {n: [leg for leg in own if leg < self.x.ndim] for n, own in self.legs.items()}
        order = sorted(self.legs, key=lambda n: (not live[n], live[n], n))
        place = {node: k for k, node in enumerate(order)}
        ranks = {
            (min(place[a], place[b]), max(place[a], place[b])): self.size(leg, a) for leg, (a, b) in self.bonds.items()
        }
        return Graph(self.sizes, [live[n] for n in order], ranks), place

    def network(self) -> tuple[Graph, tuple[Tensor, ...]]:
        """The structure with its tensors."""
        graph, place = self.graph()
        ends = {leg: (min(place[a], place[b]), max(place[a], place[b])) for leg, (a, b) in self.bonds.items()}
        tensors = []
        for node in sorted(self.legs, key=place.__getitem__):
            own, t = self.legs[node], self.tensors[node]
            kept = {bond: leg for leg, bond in ends.items() if leg in own}
            wanted = [*graph.nodes[place[node]], *(kept[bond] for bond in graph.ranks if bond in kept)]
            alone = [axis for axis, leg in enumerate(own) if leg not in wanted]  # of rank 1
            t = t.permute([*(own.index(leg) for leg in wanted), *alone])
            tensors.append(t.reshape(t.shape[: len(wanted)]).contiguous())
        return without_scalars(graph, tensors)

    def recentre(self) -> None:
        """Make all nodes but the centre isometries, and the centre what the array has in them."""
        centre = self.centre
        for node, leg in reversed(self._inwards((centre,))):
            ends = self.bonds[leg]
            self._pass(node, ends[0] + ends[1] - node, leg)
        t, labels = self.project(centre)
        self.tensors[centre] = t.permute([labels.index(leg) for leg in self.legs[centre]]).contiguous()

    # -- moves

    def sweep(self, price: float | None, *, reshape: bool = False) -> None:
        """Fit every bond once, the nearest first.

        Args:
            price: μ, entries for which a unit of squared error is bought; None keeps the ranks.
            reshape: whether pairs may be split otherwise.
        """
        todo = set(self.bonds)
        while todo:
            leg = self._nearest(todo)
            todo.discard(leg)
            self.fit_pair(leg, price, reshape=reshape)
            todo &= set(self.bonds)

    def fit_pair(
        self,
        leg: int,
        price: float | None,
        *,
        reshape: bool = False,
        rank: int | None = None,
        allowed2: float | None = None,
    ) -> None:
        """Fit the pair at a bond and split it.

        Args:
            leg: the bond.
            price: μ; for the least entries + μ error².
            reshape: whether it may be split otherwise than it is, or stay one node.
            rank: where there is no price: the rank of the bond; None keeps it.
            allowed2: where there is neither: the squared error that the whole may have, for the fewest entries.
        """
        a, b = self.bonds[leg]
        self._move_to(a, b)
        t, outer = self.project(a, b)
        full = {k: self.sizes[k] if k < self.x.ndim else n for k, n in zip(outer, t.shape, strict=True)}
        dims = dict(zip(outer, t.shape, strict=True))
        here = frozenset(k for k in self.legs[a] if k != leg)
        kept2 = energy(t.reshape(1, -1))
        whole = float(prod(full.values())) if reshape else inf
        masks = self._beyond(a, b, leg) if self.tails is not None and reshape else {}
        if allowed2 is not None and self.norm2 - kept2 > allowed2:
            return

        def choose(s2: Tensor, ends: int) -> tuple[int, float]:
            """The rank, and what it comes to."""
            if price is not None:
                r = max(1, int((s2 * price > ends).sum()))
                return r, r * ends + price * float(s2[r:].sum())
            if allowed2 is not None:
                lost = s2.flip(0).cumsum(0).flip(0)
                r = max(1, int((lost > allowed2 - (self.norm2 - kept2)).sum()))
                return r, r * ends + float(s2[r:].sum()) / max(allowed2, 1e-300)
            r = min(self.size(leg, a) if rank is None else rank, len(s2))
            return r, 0.0

        best: tuple[float, frozenset[int], Cut, Tensor, bool] | None = None
        for left in self._splits(outer, here) if reshape else (here,):
            rows, columns = [k for k in outer if k in left], [k for k in outer if k not in left]
            ends = prod(full[k] for k in rows) + prod(full[k] for k in columns)
            short = min(prod(dims[k] for k in rows), prod(dims[k] for k in columns))
            if left is not here and (short > _WIDE or (best is not None and ends >= min(best[0], whole))):
                continue
            if best is not None and price is not None and self.tails is not None:
                tails = self.tails(sum(masks[k] for k in rows))
                least = np.arange(1, len(tails)) * ends + price * np.maximum(tails[1:] - (self.norm2 - kept2), 0.0)
                if float(least.min()) >= min(best[0], whole):
                    continue
            matrix = t.permute([outer.index(k) for k in rows + columns]).reshape(prod(dims[k] for k in rows), -1)
            tail2 = self.floor2 if price is None else 0.1 * ends / price
            found = spectrum(matrix, tail2=tail2, norm2=kept2)
            r, value = choose(found.s2, ends)
            if best is None or value < best[0] * (1 - 1e-12):
                best = (value, left, Cut(ends, found.s2, r), found.vectors, found.side == "left")
        assert best is not None
        if whole <= best[0]:
            self._merge(a, b, outer, t)
        else:
            self._put(leg, a, b, outer, t, best[1:])

    def project(self, *hole: int) -> tuple[Tensor, list[int]]:
        """The array on all nodes but those of a hole: a tensor with the legs around the hole."""
        order = self._inwards(hole)
        waiting = dict(order)
        t, labels = self.x, list(range(self.x.ndim))
        chain: list[tuple[int, Tensor, int, Tensor, list[int]]] = []
        for entry in self._chain:  # what the last projection began with, as far as it serves this one
            node, own, out, result, after = entry
            if waiting.get(node) != out or self.tensors[node] is not own:
                break
            t, labels = result, after
            del waiting[node]
            chain.append(entry)
        while waiting:
            ready = [n for n, out in waiting.items() if all(leg in labels for leg in self.legs[n] if leg != out)]
            node = max(ready, key=self._shrinks)
            out = waiting.pop(node)
            own = self.tensors[node]
            inner = [leg for leg in self.legs[node] if leg != out]
            mine = [self.legs[node].index(leg) for leg in inner]
            t = torch.tensordot(t, own.conj(), dims=([labels.index(leg) for leg in inner], mine))
            labels = [leg for leg in labels if leg not in inner] + [out]
            chain.append((node, own, out, t, labels))
        self._chain = chain
        return t, labels

    # -- parts

    def _shrinks(self, node: int) -> float:
        t = self.tensors[node]
        return t.numel() / max(t.shape) ** 2 if t.ndim else 1.0

    def _inwards(self, hole: Sequence[int]) -> list[tuple[int, int]]:
        """Every node outside of a hole with its leg towards it."""
        found: list[tuple[int, int]] = []
        ends, seen, stack = self.bonds, set(hole), list(hole)
        while stack:
            node = stack.pop()
            for leg in self.legs[node]:
                if leg in ends:
                    other = ends[leg][0] + ends[leg][1] - node
                    if other not in seen:
                        seen.add(other)
                        found.append((other, leg))
                        stack.append(other)
        return found

    def _beyond(self, a: int, b: int, between: int) -> dict[int, int]:
        """The modes beyond each leg of a pair, as bit masks."""
        ends = self.bonds

        def modes(leg: int, node: int) -> int:
            if leg < self.x.ndim:
                return 1 << leg
            other = ends[leg][0] + ends[leg][1] - node
            return sum(modes(further, other) for further in self.legs[other] if further != leg)

        return {leg: modes(leg, node) for node in (a, b) for leg in self.legs[node] if leg != between}

    def _nearest(self, wanted: set[int]) -> int:
        """The bond of some that is reached first from the centre."""
        ends, seen, queue = self.bonds, {self.centre}, [self.centre]
        for node in queue:
            for leg in self.legs[node]:
                if leg in wanted:
                    return leg
                if leg in ends:
                    other = ends[leg][0] + ends[leg][1] - node
                    if other not in seen:
                        seen.add(other)
                        queue.append(other)
        raise AssertionError("bonds of a tree are all reached")

    def _move_to(self, a: int, b: int) -> None:
        """Make the nearer of two nodes the centre."""
        if self.centre in (a, b):
            return
        towards = dict(self._inwards((a, b)))
        ends = self.bonds
        while self.centre not in (a, b):
            node, leg = self.centre, towards[self.centre]
            other = ends[leg][0] + ends[leg][1] - node
            self._pass(node, other, leg)

    def _pass(self, node: int, other: int, leg: int) -> None:
        axis = self.legs[node].index(leg)
        t = self.tensors[node]
        q, r = torch.linalg.qr(unfold(t, axis))
        rest = [n for k, n in enumerate(t.shape) if k != axis]
        self.tensors[node] = q.reshape(*rest, q.shape[1]).movedim(-1, axis)
        self.tensors[other] = absorb(self.tensors[other], self.legs[other].index(leg), r)
        self.centre = other

    def _splits(self, outer: Sequence[int], here: frozenset[int]) -> Iterator[frozenset[int]]:
        """Sets of legs that may go to one side: what is there first; then two or more, or one mode."""

        def may(part: frozenset[int]) -> bool:
            return len(part) > 1 or min(part) < self.x.ndim

        everything = frozenset(outer)
        yield here
        sizes = range(1, len(outer) // 2 + 1) if len(outer) <= _ALL_SPLITS else (1, 2)
        for n in sizes:
            for chosen in combinations(outer, n):
                left = frozenset(chosen)
                once = 2 * n < len(outer) or outer[0] in left
                if once and may(left) and may(everything - left) and left not in (here, everything - here):
                    yield left

    def _merge(self, a: int, b: int, outer: list[int], t: Tensor) -> None:
        leg = next(leg for leg in self.legs[a] if leg in self.legs[b])
        del self.legs[b], self.tensors[b]
        self.known.pop(leg, None)
        self.legs[a], self.tensors[a], self.centre = list(outer), t, a

    def _put(
        self, leg: int, a: int, b: int, outer: list[int], t: Tensor, chosen: tuple[frozenset[int], Cut, Tensor, bool]
    ) -> None:
        left, cut, vectors, on_rows = chosen
        rows = [k for k in outer if k in left]
        columns = [k for k in outer if k not in left]
        dims = [t.shape[outer.index(k)] for k in rows + columns]
        matrix = t.permute([outer.index(k) for k in rows + columns]).reshape(prod(dims[: len(rows)]), -1)
        basis = vectors[:, : cut.rank]
        if on_rows:  # the rows become an isometry, the columns the centre
            first, second = basis, (basis.mH @ matrix).mT
        else:
            first, second = matrix @ basis, basis.conj()
        self.legs[a], self.legs[b] = [*rows, leg], [*columns, leg]
        self.tensors[a] = first.reshape(*dims[: len(rows)], cut.rank).contiguous()
        self.tensors[b] = second.reshape(*dims[len(rows) :], cut.rank).resolve_conj().contiguous()
        self.centre = b if on_rows else a
        self.known[leg] = cut


def without_scalars(graph: Graph, tensors: Sequence[Tensor]) -> tuple[Graph, tuple[Tensor, ...]]:
    """The same network without nodes that have neither modes nor bonds: they are numbers, and multiply another node."""
    alone = [k for k, t in enumerate(tensors) if t.ndim == 0]
    if not alone or len(alone) == len(tensors):
        return graph, tuple(tensors)
    kept = [k for k in range(len(tensors)) if k not in alone]
    factor = torch.stack([tensors[k] for k in alone]).prod()
    place = {k: j for j, k in enumerate(kept)}
    ranks: dict[Bond, int] = {(place[a], place[b]): r for (a, b), r in graph.ranks.items()}
    found = [tensors[k] * factor if j == 0 else tensors[k] for j, k in enumerate(kept)]
    return Graph(graph.shape, [graph.nodes[k] for k in kept], ranks), tuple(found)
