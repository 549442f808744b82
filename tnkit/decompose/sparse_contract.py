"""Unfoldings of a sparse array, and its products with a factor for each mode (TTM), one mode after the other.

After some modes are contracted, what is left holds a dense fibre for each distinct tuple of the other indices
(semi-sparse: Kolda & Sun, doi:10.1109/ICDM.2008.89; Kaya & Uçar, doi:10.1109/ICPP.2016.19). The largest mode goes
first: it leaves the fewest tuples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor

from tnkit.linalg import BlockSparse, SparseMatrix, add_rows_, columns_of, group_rows, require_room
from tnkit.sources import SparseTensor

__all__ = ["SparseContraction", "project_first", "unfolding"]

#: Numbers of one chunk of a product, on the host and on a device.
CHUNK, CHUNK_DEVICE = 2**17, 2**24


def unfolding(x: SparseTensor, mode: int) -> BlockSparse:
    """The matrix whose rows are along a mode; its columns are the distinct tuples of the other indices."""
    others = [k for k in range(x.ndim) if k != mode]
    groups = group_rows(columns_of(x.indices, others), [x.shape[k] for k in others])
    column = groups.target.new_empty(x.nnz)
    column[groups.order] = groups.target
    rows = x.indices[:, mode]
    order = rows.argsort(stable=True)
    return BlockSparse(rows[order], column[order], x.values[order][:, None], x.shape[mode], groups.count)


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """How rows fall together when a mode is contracted.

    Attributes:
        matrix: from the indices of the mode to the tuples that are left, where each row is one entry of the array.
        order: where the rows stand, sorted by what is left of them; None if that is their order already.
        target: the tuple that each of them belongs to, ascending.
        pick: the index of the mode, in that order.
        rows: the tuples.
    """

    matrix: SparseMatrix | None
    order: Tensor | None
    target: Tensor
    pick: Tensor
    rows: Tensor


class SparseContraction:
    """Products of one array with factors; how its entries fall together is found once.

    Args:
        x: the array.
    """

    def __init__(self, x: SparseTensor) -> None:
        self.x = x
        self._known: dict[tuple[tuple[int, ...], int], _Step] = {}

    def all_but(self, mode: int, factors: Sequence[Tensor]) -> tuple[Tensor, tuple[int, ...]]:
        """The array with all modes but one contracted with conjugated factors.

        Args:
            mode: that is left.
            factors: (n_k, r_k) for every mode; that of `mode` is not used.

        Returns:
            (n, r …), and the modes that its further axes stand for. Cost: nnz times the product of the ranks of the
            others at the most.

        Raises:
            MemoryLimitError: it, or what comes before it, does not fit.
        """
        modes = tuple(range(self.x.ndim))
        table, blocks = self.x.indices, self.x.values[:, None]
        order = sorted((k for k in modes if k != mode), key=lambda k: -self.x.shape[k])
        for k in order:
            table, blocks, modes = self._contract(table, blocks, modes, k, factors[k])
        out = blocks.new_zeros((self.x.shape[mode], blocks.shape[1]))
        add_rows_(out, table[:, 0], blocks)
        return out.reshape(self.x.shape[mode], *(factors[k].shape[1] for k in order)), tuple(order)

    def core(self, factors: Sequence[Tensor]) -> Tensor:
        """The array with all modes contracted with conjugated factors, (r_0, r_1 …)."""
        first = min(range(self.x.ndim), key=lambda k: self.x.shape[k])
        part, others = self.all_but(first, factors)
        return project_first(part, others, first, factors[first])

    def _contract(
        self, table: Tensor, blocks: Tensor, modes: tuple[int, ...], mode: int, factor: Tensor
    ) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        rest = tuple(k for k in modes if k != mode)
        if (modes, mode) not in self._known:
            self._known[modes, mode] = self._step(table, modes, rest, mode)
        known = self._known[modes, mode]
        side = factor.conj_physical()
        width = blocks.shape[1] * side.shape[1]
        require_room((known.rows.shape[0], width), blocks, "The product with the factors of a sparse array")
        if known.matrix is not None:
            return known.rows, known.matrix.apply(side), rest
        out = blocks.new_zeros((known.rows.shape[0], width))
        room = CHUNK if blocks.device.type == "cpu" else CHUNK_DEVICE
        step = max(1, room // width)
        for start in range(0, known.pick.shape[0], step):
            part = slice(start, start + step)
            rows = side.index_select(0, known.pick[part])
            fibres = blocks[part] if known.order is None else blocks.index_select(0, known.order[part])
            add_rows_(out, known.target[part], (fibres[:, :, None] * rows[:, None, :]).reshape(-1, width))
        return known.rows, out, rest

    def _step(self, table: Tensor, modes: tuple[int, ...], rest: tuple[int, ...], mode: int) -> _Step:
        groups = group_rows(columns_of(table, [modes.index(k) for k in rest]), [self.x.shape[k] for k in rest])
        pick = table[:, modes.index(mode)][groups.order]
        matrix: SparseMatrix | None = None
        if len(modes) == self.x.ndim:
            values = self.x.values[groups.order]
            matrix = SparseMatrix(groups.target, pick, values, groups.count, self.x.shape[mode])
        sorted_already = rest == modes[: len(rest)]  # rows are sorted by their modes, the first slowest
        return _Step(matrix, None if sorted_already else groups.order, groups.target, pick, groups.rows)


def project_first(part: Tensor, others: Sequence[int], mode: int, factor: Tensor) -> Tensor:
    """The core from what `all_but` gives and the factor of the mode that it left."""
    ranks = part.shape[1:]
    flat = factor.mH @ part.reshape(part.shape[0], prod(ranks))
    axes = (mode, *others)
    return flat.reshape(factor.shape[1], *ranks).permute([axes.index(k) for k in range(len(axes))]).contiguous()
