"""Products of the unfoldings of a sparse array with Khatri–Rao products (MTTKRP), and the sweeps of CP on them.

The modes are split in two groups. Where many entries share their indices in a group, the array is a sparse matrix
between the distinct tuples of both groups: the product of the factors of one group is made once for each tuple, and one
sparse product adds up what belongs to each tuple of the other. Inside a group the same is done again (Smith et al.,
doi:10.1109/IPDPS.2015.27; Kaya & Uçar, doi:10.1137/16M1102744). Where entries share little, each is multiplied by the
rows of the other factors at its indices, mode by mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TypeAlias

import scipy
import torch
from torch import Tensor

from tnkit.decompose.mttkrp import balanced
from tnkit.decompose.sweep import SAFE_SHARE
from tnkit.linalg import SparseMatrix, add_rows_, columns_of, group_rows, solve_gram
from tnkit.sources import SparseTensor

__all__ = ["SparseCP", "SparseProducts"]

#: Numbers of one chunk of a product, on the host (a cache holds it) and on a device.
CHUNK, CHUNK_DEVICE = 2**16, 2**24
#: A group of modes is added up first if it has at most this share of the rows.
SHARED = 0.5
#: Numbers that the sums of a group may hold, beside as many as the coordinates; with more they are made in pieces.
ROOM = 2**22
#: Bytes an entry up to which indices are kept sorted for every mode.
SORTED_BYTES = 64

#: Some columns of the sums of a group.
Sums: TypeAlias = Callable[[slice], Tensor]
Update: TypeAlias = Callable[[int, Tensor], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Distinct tuples of the indices of some modes.

    Attributes:
        modes: which.
        count: tuples; for one mode its size.
        picks: the indices of each tuple, mode by mode; none for one mode.
        below: groups of fewer modes.
    """

    modes: tuple[int, ...]
    count: int
    picks: tuple[Tensor, ...]
    below: tuple[_Link, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Link:
    """From the tuples of a group to those of one with fewer modes.

    Attributes:
        group: with fewer modes.
        out: modes that are contracted on the way, by their position in the group above.
        sums: a matrix of ones, with a row for each tuple of `group`.
    """

    group: _Group
    out: tuple[int, ...]
    sums: SparseMatrix


@dataclass(frozen=True, slots=True, eq=False)
class _Scattered:
    """From the entries themselves to a group, in chunks.

    Attributes:
        group: that is left.
        out: modes that are contracted.
        order: the entries, sorted for the group.
        target: the tuple of each, ascending.
        values: sorted as well, or none where memory is to be saved.
        picks: for each mode of `out` the indices, sorted as well, or none.
    """

    group: _Group
    out: tuple[int, ...]
    order: Tensor
    target: Tensor
    values: Tensor | None
    picks: tuple[Tensor, ...]


class SparseProducts:
    """The products for all modes of one array.

    Args:
        x: the array; the products have the dtype of its values.
    """

    def __init__(self, x: SparseTensor) -> None:
        self.x = x
        self.index = torch.int32 if max(*x.shape, x.nnz) < 2**31 else torch.int64
        self.column = [c.to(self.index).contiguous() for c in x.indices.unbind(1)]
        modes = tuple(sorted(range(x.ndim), key=lambda k: x.shape[k]))
        half = (len(modes) + 1) // 2
        found = [self._tuples(x.indices, range(x.ndim), part) for part in (modes[:half], modes[half:])]
        self.matrix: SparseMatrix | None = None
        self.pair: tuple[_Group, ...] = ()
        self.scattered: tuple[_Scattered, ...] = ()
        if all(item is not None for item in found):
            (low, rows), (high, cols) = (item for item in found if item is not None)
            self.pair = (low, high)
            self.matrix = SparseMatrix(rows, cols, x.values, low.count, high.count)
        else:
            keep = x.ndim * (x.ndim - 1) * (4 if self.index == torch.int32 else 8) <= SORTED_BYTES
            scattered: list[_Scattered] = []
            for item, part in zip(found, (modes[:half], modes[half:]), strict=True):
                each = [self._tuples(x.indices, range(x.ndim), (k,)) for k in part] if item is None else [item]
                scattered += [self._scattered(*one, keep=keep) for one in each if one is not None]
            self.scattered = tuple(scattered)

    # -- how entries fall together

    def _tuples(self, table: Tensor, modes: Sequence[int], part: tuple[int, ...]) -> tuple[_Group, Tensor] | None:
        """A group below rows with these indices, and which tuple each row has; None where few are shared."""
        if len(part) <= 1:
            if not part:
                return _Group((), 1, (), ()), table.new_zeros(table.shape[0])
            return _Group(part, self.x.shape[part[0]], (), ()), table[:, modes.index(part[0])].contiguous()
        groups = group_rows(columns_of(table, [modes.index(k) for k in part]), [self.x.shape[k] for k in part])
        if groups.count > SHARED * table.shape[0]:
            return None
        place = torch.empty_like(groups.order)
        place[groups.order] = groups.target
        picks = tuple(c.to(self.index).contiguous() for c in groups.rows.unbind(1))
        return _Group(part, groups.count, picks, self._links(groups.rows, part)), place

    def _links(self, table: Tensor, modes: tuple[int, ...]) -> tuple[_Link, ...]:
        half = (len(modes) + 1) // 2
        found: list[_Link] = []
        for part in (modes[:half], modes[half:]):
            item = self._tuples(table, modes, part)
            each = [self._tuples(table, modes, (k,)) for k in part] if item is None else [item]
            for one in each:
                assert one is not None
                group, place = one
                out = tuple(j for j, k in enumerate(modes) if k not in group.modes)
                there = torch.arange(table.shape[0], device=table.device)
                matrix = SparseMatrix(place, there, None, group.count, table.shape[0], like=self.x.values)
                found.append(_Link(group, out, matrix))
        return tuple(found)

    def _scattered(self, group: _Group, place: Tensor, *, keep: bool) -> _Scattered:
        target, order = torch.sort(place, stable=True)
        out = tuple(k for k in range(self.x.ndim) if k not in group.modes)
        picks = tuple(self.column[k].index_select(0, order) for k in out) if keep else ()
        values = self.x.values.index_select(0, order) if keep else None
        return _Scattered(group, out, order.to(self.index), target.to(self.index), values, picks)

    # -- products

    def sides(self, factors: list[Tensor], update: Update) -> None:
        """For every mode the unfolding times the conjugated Khatri–Rao product of the other factors, (n_k, r).

        Args:
            factors: (n_k, r) each.
            update: hears of (mode, product), and may replace entries of `factors`; the modes after it use those.

        Cost:
            2 nnz r products and additions for two groups that share indices, and some for each of their tuples;
            d² nnz r where nothing is shared. Memory of one chunk, and of what groups share.
        """
        r, room = factors[0].shape[1], ROOM + self.x.nnz * (self.x.ndim + 1)
        if self.matrix is not None:
            for number, group in enumerate(self.pair):
                other = self.pair[1 - number]

                def made(cols: slice, other: _Group = other, number: int = number) -> Tensor:
                    assert self.matrix is not None
                    side = self._rows(other, factors, cols, r)
                    return self.matrix.transposed(side) if number else self.matrix.apply(side)

                self._serve(group, made, factors, update, r, room, max(1, room // max(other.count, 1)))
        for item in self.scattered:

            def summed(cols: slice, item: _Scattered = item) -> Tensor:
                return self._entries(item, [factors[k][:, cols].conj_physical() for k in item.out], r)

            self._serve(item.group, summed, factors, update, r, room, r)

    def _rows(self, group: _Group, factors: Sequence[Tensor], cols: slice, r: int) -> Tensor:
        """The conjugated products of the factors' rows for each tuple of a group."""
        if not group.modes:
            return self.x.values.new_ones((1, len(range(r)[cols])))
        sides = [factors[k][:, cols].conj_physical() for k in group.modes]
        return sides[0] if len(sides) == 1 else _products(sides, group.picks)

    def _serve(
        self, group: _Group, made: Sums, factors: Sequence[Tensor], update: Update, r: int, room: int, width: int
    ) -> None:
        """Hand on the sums of a group to the modes in it, in pieces of columns if they take too much memory."""
        whole = slice(0, r)
        if group.count * r > room:
            width = max(1, min(width, room // group.count))
        if len(group.modes) == 1:
            pieces = [made(slice(start, min(start + width, r))) for start in range(0, r, width)]
            update(group.modes[0], pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1))
        if len(group.modes) <= 1:
            return
        kept = made(whole) if width >= r else None
        for link in group.below:

            def below(cols: slice, link: _Link = link) -> Tensor:
                above = made(cols) if kept is None else kept[:, cols]
                sides = [factors[group.modes[j]][:, cols].conj_physical() for j in link.out]
                return link.sums.apply(_products(sides, [group.picks[j] for j in link.out]).mul_(above))

            self._serve(link.group, below, factors, update, r, room, width)

    def _entries(self, item: _Scattered, sides: Sequence[Tensor], r: int) -> Tensor:
        """The sums over the entries, chunk by chunk."""
        values, host = self.x.values, self.x.device.type == "cpu"
        r = sides[0].shape[1] if sides else r
        out = values.new_zeros((item.group.count, r))
        for part in self._chunks(int(item.order.shape[0]), r):
            where = item.order[part]
            mine = values.index_select(0, where) if item.values is None else item.values[part]
            picks = [p[part] for p in item.picks] or [self.column[k].index_select(0, where) for k in item.out]
            product = _products(sides, picks) if sides else values.new_ones((mine.shape[0], r))
            if host:
                _add_sums_(out, item.target[part], mine, product)
            else:
                add_rows_(out, item.target[part].long(), product.mul_(mine[:, None]))
        return out

    def _chunks(self, count: int, r: int) -> Iterator[slice]:
        room = CHUNK if self.x.device.type == "cpu" else CHUNK_DEVICE
        step = max(1, room // r)
        for start in range(0, count, step):
            yield slice(start, start + step)


def _products(sides: Sequence[Tensor], picks: Sequence[Tensor]) -> Tensor:
    """Row by row the products of these rows of the factors."""
    product = sides[0].index_select(0, picks[0])
    for side, pick in zip(sides[1:], picks[1:], strict=True):
        product.mul_(side.index_select(0, pick))
    return product


def _add_sums_(out: Tensor, target: Tensor, values: Tensor, rows: Tensor) -> None:
    """Add rows times values to `out` where `target`, which ascends, says."""
    groups, counts = torch.unique_consecutive(target, return_counts=True)
    starts = torch.zeros(counts.shape[0] + 1, dtype=target.dtype)
    starts[1:] = torch.cumsum(counts, 0)
    n = int(target.shape[0])
    there = torch.arange(n, dtype=target.dtype)
    matrix = scipy.sparse.csr_array((values.numpy(), there.numpy(), starts.numpy()), shape=(counts.shape[0], n))
    out.index_add_(0, groups.long(), torch.from_numpy(matrix @ rows.numpy()))


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
        left = len(factors)

        def update(k: int, side: Tensor) -> None:
            nonlocal share, left
            gram = torch.ones_like(grams[k])
            for j, g in enumerate(grams):
                gram = gram if j == k else gram * g
            pull = max(ridge, 8 * torch.finfo(self.x.dtype).eps) * gram.diagonal().real.mean()
            right = torch.add(side, factors[k] * pull).mT  # f conj(gram) = side, as gramᴴ = gram: gram fᵀ = sideᵀ
            new = solve_gram(gram, right, pull).mT.contiguous()
            factors[k], grams[k] = new, new.mH @ new
            left -= 1
            if left == 0:
                inner = 2 * torch.vdot(side.reshape(-1), new.reshape(-1)).real - (grams[k] * gram).real.sum()
                share = 1.0 - inner / self.norm**2

        self.products.sides(factors, update)
        found = balanced(factors)
        lost = float(share)
        return found, sqrt(lost) if lost > SAFE_SHARE[self.x.dtype] else self.error(found)
