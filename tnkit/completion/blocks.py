"""Entries sorted by the rows of one node and cut into equal blocks, so that sums over the entries of a row are BLAS.

Rows have any number of entries. A batch over rows would be padded to the longest; here the entries of a row are cut
into blocks of one size, and only the last block of a row is padded. What stands in padding has weight 0.

Example:
    >>> import torch
    >>> blocks = Blocks.of(torch.tensor([2, 0, 2, 2]), n_rows=3)
    >>> blocks.rows.tolist(), blocks.owner.tolist(), int(blocks.real.sum())
    ([0, 2], [0, 1], 4)
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Blocks", "segment_sum"]

#: Entries of the longest block; rows of more entries get several.
LONGEST = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """N entries in P blocks of B slots, over the G rows that have entries.

    Attributes:
        rows: (G,) the rows that have entries, ascending.
        owner: (P,) position in `rows` of each block's row; ascending.
        slots: (P, B) the entry in each slot; 0 in padding.
        real: (P, B) True where a slot holds an entry.
        place: (N,) the slot of each entry, counted through.
        first: for each of the G rows its first block, and at the end P; on the host.
        padded: whether any slot is padding.
    """

    rows: Tensor
    owner: Tensor
    slots: Tensor
    real: Tensor
    place: Tensor
    first: tuple[int, ...]
    padded: bool

    @staticmethod
    def of(row: Tensor, n_rows: int, with_places: bool = True) -> Blocks:
        """Sort entries into blocks.

        Args:
            row: (N,) the row of each entry.
            n_rows: how many rows there are at all.
            with_places: whether `place` is needed; it is empty otherwise.
        """
        n = row.shape[0]
        order = torch.argsort(row, stable=True)
        rows, count = torch.unique_consecutive(row[order], return_counts=True)
        counts = count.tolist()
        size = _block_size(counts)
        per_row = [-(-c // size) for c in counts]
        first = [0]
        for p in per_row:
            first.append(first[-1] + p)
        owner = torch.repeat_interleave(
            torch.arange(len(counts), device=row.device), torch.tensor(per_row, device=row.device)
        )
        begins = torch.cumsum(count, 0) - count  # where each row's entries begin among the sorted ones
        blocks_begin = torch.tensor(first[:-1], device=row.device)
        group = torch.repeat_interleave(torch.arange(len(counts), device=row.device), count)
        place_sorted = torch.arange(n, device=row.device) - begins[group] + blocks_begin[group] * size
        slots = torch.zeros(first[-1] * size, dtype=torch.int64, device=row.device)
        slots[place_sorted] = order
        real = torch.zeros(first[-1] * size, dtype=torch.bool, device=row.device)
        real[place_sorted] = True
        place = torch.empty_like(order) if with_places else order.new_empty(0)
        if with_places:
            place[order] = place_sorted
        return Blocks(
            rows, owner, slots.reshape(-1, size), real.reshape(-1, size), place, tuple(first), first[-1] * size > n
        )

    @property
    def size(self) -> int:
        """Slots of a block."""
        return self.slots.shape[1]

    def owner_of(self, block: int) -> int:
        """The position in `rows` of a block's row, known on the host."""
        return bisect_right(self.first, block) - 1

    def row_chunks(self, most: int) -> Iterator[tuple[int, int]]:
        """Ranges of at most `most` rows."""
        g = len(self.first) - 1
        for start in range(0, g, max(1, most)):
            yield start, min(g, start + max(1, most))

    def block_chunks(self, start: int, stop: int, most: int) -> Iterator[tuple[int, int]]:
        """Ranges of at most `most` blocks, over the rows from `start` to `stop`."""
        end = self.first[stop]
        for p in range(self.first[start], end, max(1, most)):
            yield p, min(end, p + max(1, most))


def _block_size(counts: list[int]) -> int:
    """One block a row where rows are about equally long, otherwise blocks of a quarter of the mean."""
    mean, longest = sum(counts) / len(counts), max(counts)
    size = longest if longest <= 1.3 * mean + 2 else max(8, round(mean / 4))
    return max(1, min(size, LONGEST, longest))


def segment_sum(values: Tensor, owner: Tensor, n: int) -> Tensor:
    """Sums of `values` (P, …) over equal owners: (n, …). The order of summation is fixed on every device."""
    if values.shape[0] == n:
        return values  # owners ascend and none is left out, so each has one block
    out = values.new_zeros((n, *values.shape[1:]))
    if values.device.type == "cpu":
        return out.index_add_(0, owner, values)
    return out.index_put_((owner,), values, accumulate=True)
