"""Rows of whole numbers: put equal ones together; and matrices that are given by them.

What sparse arrays need to find distinct rows, columns and fibres, and to add up what belongs to each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import scipy  # its parts load where they are used
import torch
from torch import Tensor

__all__ = ["Groups", "SparseMatrix", "add_rows_", "columns_of", "group_rows"]

_MOST = 2**62  # keys stay below this
_CHUNK = 2**24  # numbers of one chunk of a product on a device


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Equal rows of a table together.

    Attributes:
        order: (N,) a permutation that sorts the rows, the first column slowest; equal rows keep their order.
        target: (N,) the number of its group for each sorted row, ascending from 0.
        rows: (G, q) the distinct rows, sorted.
    """

    order: Tensor
    target: Tensor
    rows: Tensor

    @property
    def count(self) -> int:
        """The number of groups."""
        return int(self.rows.shape[0])


def group_rows(table: Tensor, sizes: Sequence[int]) -> Groups:
    """Sort the rows of a table of indices and number the distinct ones.

    Args:
        table: (N, q) int64, column k from 0 to sizes[k] - 1. With q = 0 all rows are equal.
        sizes: of the columns; their product may leave the range of 64 bits.

    Returns:
        `Groups`. Cost: one sort of N keys (more where the product of the sizes leaves 62 bits).

    Example:
        >>> import torch
        >>> found = group_rows(torch.tensor([[1, 0], [0, 2], [1, 0]]), (2, 3))
        >>> found.rows.tolist(), found.target.tolist(), found.order.tolist()
        ([[0, 2], [1, 0]], [0, 1, 1], [1, 0, 2])
    """
    key, order = torch.sort(_keys(table, sizes), stable=True)
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    return Groups(order, torch.cumsum(first, 0) - 1, table[order[first]])


def columns_of(table: Tensor, picks: Sequence[int]) -> Tensor:
    """Some columns of a table, (N, len(picks)).

    Args:
        table: (N, q).
        picks: which, in the order that is wanted; there may be none.
    """
    return torch.stack([table[:, k] for k in picks], dim=1) if picks else table[:, :0]


def _keys(table: Tensor, sizes: Sequence[int]) -> Tensor:
    """One number a row, in the order of the rows."""
    count = int(table.shape[0])
    key, spread = table.new_zeros(count), 1
    for column, size in zip(table.unbind(1), sizes, strict=True):
        n = int(size)
        if spread * n >= _MOST:  # ranks instead of values: the order stays, and they are below N
            key, spread = torch.unique(key, return_inverse=True)[1], count
        if spread * n >= _MOST:
            column, n = torch.unique(column, return_inverse=True)[1], count
        key, spread = key * n + column, spread * n
    return key


def add_rows_(out: Tensor, target: Tensor, rows: Tensor) -> None:
    """Add rows to `out` at these places, in a fixed order on every device.

    Args:
        out: (G, …); changed.
        target: (N,).
        rows: (N, …).
    """
    if out.device.type == "cuda":
        out.index_put_((target,), rows, accumulate=True)
    else:
        out.index_add_(0, target, rows)


class SparseMatrix:
    """A matrix (m, n) by its entries, for products with slim dense matrices.

    Args:
        rows: (N,) from 0 to m - 1; ascending or not.
        cols: (N,) from 0 to n - 1.
        values: (N,); None for ones.
        m: rows.
        n: columns.
        like: dtype and device of the products, where there are no values.

    Cost:
        it keeps 12 bytes an entry in double precision, up to 2³¹ entries. A product with s columns takes N s
        multiplications and additions; on the host SciPy does them, in one thread and always in the same order.

    Example:
        >>> import torch
        >>> a = SparseMatrix(torch.tensor([0, 2]), torch.tensor([1, 0]), torch.tensor([3.0, 5.0]), 3, 2)
        >>> a.apply(torch.tensor([[1.0], [2.0]])).flatten().tolist()
        [6.0, 0.0, 5.0]
    """

    __slots__ = ("_csr", "_entries", "_values", "shape")

    def __init__(
        self, rows: Tensor, cols: Tensor, values: Tensor | None, m: int, n: int, *, like: Tensor | None = None
    ) -> None:
        if values is None:
            assert like is not None
            values = like.new_ones(()).expand(rows.shape[0])
        self.shape = (m, n)
        self._csr = self._entries = self._values = None
        if values.device.type == "cpu":
            numbers = values.resolve_conj().resolve_neg().numpy()
            self._csr = scipy.sparse.coo_array((numbers, (rows.numpy(), cols.numpy())), shape=(m, n)).tocsr()
        else:
            self._entries, self._values = (rows, cols), values

    def apply(self, right: Tensor) -> Tensor:
        """The product with (n, s): (m, s)."""
        return self._product(right, flipped=False)

    def transposed(self, left: Tensor) -> Tensor:
        """The product of the transpose, not conjugated, with (m, s): (n, s)."""
        return self._product(left, flipped=True)

    def _product(self, side: Tensor, *, flipped: bool) -> Tensor:
        if self._csr is not None:
            dense = side.resolve_conj().resolve_neg().contiguous().numpy()
            return torch.from_numpy((self._csr.T if flipped else self._csr) @ dense)
        assert self._entries is not None
        assert self._values is not None
        out = side.new_zeros((self.shape[flipped], side.shape[1]))
        target, source = self._entries[flipped], self._entries[not flipped]
        step = max(1, _CHUNK // max(1, side.shape[1]))
        for start in range(0, target.shape[0], step):
            part = slice(start, start + step)
            add_rows_(out, target[part], side.index_select(0, source[part]) * self._values[part, None])
        return out
