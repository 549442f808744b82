"""Rows of whole numbers: put equal ones together. What sparse arrays need to find distinct rows, columns and fibres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Groups", "add_rows_", "columns_of", "group_rows"]

_MOST = 2**62  # keys stay below this


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
