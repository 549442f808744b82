"""Products of the unfoldings of a sparse array with Khatri–Rao products (MTTKRP), and the sweeps of CP on them.

Each entry of the array is multiplied by the rows of all other factors at its indices, and what belongs to one row of
the result is added up. The entries are sorted for every mode once, so that sums run through memory in order. Where many
entries share their indices in a group of modes, the products for that group are added up first and serve all modes of
the group (Smith et al., doi:10.1109/IPDPS.2015.27; Kaya & Uçar, doi:10.1137/16M1102744).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from tnkit.decompose.mttkrp import balanced
from tnkit.decompose.sweep import SAFE_SHARE
from tnkit.linalg import add_rows_, columns_of, group_rows, solve_gram
from tnkit.sources import SparseTensor

__all__ = ["SparseCP", "SparseProducts"]

#: Numbers of one chunk of a product, on the host (a cache holds it) and on a device.
CHUNK, CHUNK_DEVICE = 2**16, 2**24
#: A group of modes is added up first if it has at most this share of the rows.
SHARED = 0.5
#: Bytes a number up to which indices are kept sorted for every mode.
SORTED_BYTES = 64


@dataclass(frozen=True, slots=True, eq=False)
class _Node:
    """Sums over the modes that are not in `modes`.

    Attributes:
        modes: that are left.
        out: the modes that are contracted to get here.
        order: where the rows of the node above stand, sorted for this one.
        target: the row that each of them belongs to, ascending.
        picks: for each mode of `out` the indices, in that order.
        count: rows.
        below: the nodes that start from this one.
    """

    modes: tuple[int, ...]
    out: tuple[int, ...]
    order: Tensor
    target: Tensor
    picks: tuple[Tensor, ...]
    count: int
    below: tuple[_Node, ...]


class SparseProducts:
    """The products for all modes of one array.

    Args:
        x: the array; the products have the dtype of its values.
    """

    def __init__(self, x: SparseTensor) -> None:
        self.x = x
        largest = max(x.shape)
        self.index = torch.int32 if max(largest, x.nnz) < 2**31 else torch.int64
        self.keep = x.ndim * (x.ndim - 1) * (4 if self.index == torch.int32 else 8) <= SORTED_BYTES
        modes = tuple(sorted(range(x.ndim), key=lambda k: x.shape[k]))
        self.tops = self._split(columns_of(x.indices, modes), modes)
        self.column = [] if self.keep else [c.to(self.index).contiguous() for c in x.indices.unbind(1)]

    def _split(self, table: Tensor, modes: tuple[int, ...]) -> tuple[_Node, ...]:
        """The nodes below one whose rows have these indices, in the columns of `table`."""
        half = (len(modes) + 1) // 2
        found: list[_Node] = []
        for group in (modes[:half], modes[half:]):
            node = self._group(table, modes, group) if 1 < len(group) < len(modes) else None
            if node is not None:
                found.append(node)
            else:
                found += [self._leaf(table, modes, k) for k in group]
        return tuple(found)

    def _group(self, table: Tensor, modes: tuple[int, ...], group: tuple[int, ...]) -> _Node | None:
        mine = columns_of(table, [modes.index(k) for k in group])
        groups = group_rows(mine, [self.x.shape[k] for k in group])
        if groups.count > SHARED * table.shape[0]:
            return None
        return self._node(table, modes, group, groups.order, groups.target, groups.rows)

    def _leaf(self, table: Tensor, modes: tuple[int, ...], k: int) -> _Node:
        target, order = torch.sort(table[:, modes.index(k)], stable=True)
        return self._node(table, modes, (k,), order, target, None)

    def _node(
        self,
        table: Tensor,
        modes: tuple[int, ...],
        group: tuple[int, ...],
        order: Tensor,
        target: Tensor,
        rows: Tensor | None,
    ) -> _Node:
        out = tuple(k for k in modes if k not in group)
        root = len(modes) == self.x.ndim
        sorted_now = self.keep or not root
        picks = tuple(table[:, modes.index(k)].index_select(0, order).to(self.index) for k in out) if sorted_now else ()
        count = self.x.shape[group[0]] if rows is None else int(rows.shape[0])
        below = () if rows is None else self._split(rows, group)
        return _Node(group, out, order.to(self.index), target.to(self.index), picks, count, below)

    def sides(self, factors: list[Tensor], update: Callable[[int, Tensor], None]) -> None:
        """For every mode the unfolding times the conjugated Khatri–Rao product of the other factors, (n_k, r).

        Args:
            factors: (n_k, r) each.
            update: hears of (mode, product), and may replace entries of `factors`; the modes after it use those.

        Cost:
            (d − 1) nnz r products for each mode at the most; memory of one chunk, and of what groups share.
        """
        self._visit(self.tops, None, factors, update)

    def _visit(
        self,
        nodes: Sequence[_Node],
        above: Tensor | None,
        factors: list[Tensor],
        update: Callable[[int, Tensor], None],
    ) -> None:
        for node in nodes:
            part = self._sums(node, above, factors)
            if node.below:
                self._visit(node.below, part, factors, update)
            else:
                update(node.modes[0], part)

    def _sums(self, node: _Node, above: Tensor | None, factors: Sequence[Tensor]) -> Tensor:
        r = factors[0].shape[1]
        sides = [factors[k].conj_physical() for k in node.out]
        out = self.x.values.new_zeros((node.count, r))
        for part in self._chunks(int(node.order.shape[0]), r):
            where = node.order[part]
            kept = self.x.values[:, None] if above is None else above
            product = kept.index_select(0, where)
            for j, side in enumerate(sides):
                pick = node.picks[j][part] if node.picks else self.column[node.out[j]].index_select(0, where)
                rows = side.index_select(0, pick)
                product = rows.mul_(product) if j == 0 else product.mul_(rows)
            add_rows_(out, node.target[part].to(torch.int64), product.expand(-1, r))
        return out

    def _chunks(self, count: int, r: int) -> Iterator[slice]:
        room = CHUNK if self.x.device.type == "cpu" else CHUNK_DEVICE
        step = max(1, room // r)
        for start in range(0, count, step):
            yield slice(start, start + step)


class SparseCP:
    """The least-squares problems of CP for one sparse array; tensors are (weights, factors …) with weights of one.

    Args:
        x: the array, in double precision.
        norm: ‖x‖.

    Attributes:
        x: the values, by which iterations judge dtype and size.
    """

    def __init__(self, x: SparseTensor, norm: float) -> None:
        self.sparse, self.x, self.norm = x, x.values, norm
        self.products = SparseProducts(x)

    def error(self, tensors: Sequence[Tensor]) -> float:
        """The relative error, through the Gram matrices and the entries of the array.

        It is exact down to about 1e-7, and no less than what the entries show below that.
        """
        weights, *factors = tensors
        gram = torch.outer(weights.conj(), weights)
        for f in factors:
            gram = gram * (f.mH @ f)
        differ2, seen2 = self._at_entries(weights, factors)
        return sqrt(differ2 + max(float(gram.sum().real) - seen2, 0.0)) / self.norm

    def _at_entries(self, weights: Tensor, factors: Sequence[Tensor]) -> tuple[float, float]:
        """‖x − x̂‖² and ‖x̂‖² over the entries of x."""
        differ = torch.zeros((), dtype=torch.float64, device=self.x.device)
        seen = torch.zeros_like(differ)
        first = factors[0] * weights
        for part in self.products._chunks(self.sparse.nnz, int(weights.shape[0])):
            table = self.sparse.indices[part]
            product = first.index_select(0, table[:, 0])
            for k, f in enumerate(factors[1:], start=1):
                product.mul_(f.index_select(0, table[:, k]))
            there = product.sum(1)
            differ += torch.linalg.vector_norm(self.x[part] - there).square()
            seen += torch.linalg.vector_norm(there).square()
        return float(differ), float(seen)

    def sweep(
        self, tensors: Sequence[Tensor], ridge: float = 0.0, *, regauge: bool = True
    ) -> tuple[tuple[Tensor, ...], float]:
        """Update every factor once; the new tensors and the relative error.

        `regauge` is not needed. Cost: one product for every mode.
        """
        weights, *given = tensors
        factors = [given[0] * weights, *given[1:]]
        grams = [f.mH @ f for f in factors]
        share = torch.ones((), dtype=torch.float64, device=self.x.device)

        def update(k: int, side: Tensor) -> None:
            nonlocal share
            gram = torch.ones_like(grams[k])
            for j, g in enumerate(grams):
                gram = gram if j == k else gram * g
            pull = max(ridge, 8 * torch.finfo(self.x.dtype).eps) * gram.diagonal().real.mean()
            right = (side + pull * factors[k]).mT  # f conj(gram) = side, as gramᴴ = gram: gram fᵀ = sideᵀ
            new = solve_gram(gram, right, pull).mT.contiguous()
            inner = 2 * (side.conj() * new).real.sum() - ((new.mH @ new) * gram).real.sum()
            share = 1.0 - inner / self.norm**2
            factors[k], grams[k] = new, new.mH @ new

        self.products.sides(factors, update)
        found = balanced(factors)
        left = float(share)
        return found, sqrt(left) if left > SAFE_SHARE[self.x.dtype] else self.error(found)
