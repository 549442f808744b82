"""Peel blocks of modes off one end of a big array: the step that train algorithms are made of.

A block is a few modes at one end, seen as the columns of a matrix. Boundary modes that cannot be truncated, or hardly,
are merged until one pass over the array is worth while ("thick bounds" in Röhrig-Zöllner, Thies & Basermann,
arXiv:2102.00104). Where a cut inside the block truncates as well, the block's own train is found from its weighted
basis, and the array is projected on that train: then every step is an orthogonal projection, and errors add exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from tnkit.linalg import energy, oversampling, project, residual_energy, sketch_suffices, split

__all__ = ["Block", "Projected", "contract_train", "flip", "inner_train", "plain_train", "project_rows", "thick_block"]

# What steps cost, in flops of a large matrix product for each number that is read or written; measured.
_READ = 50.0  # two sketches: one read with random signs
_PRODUCT, _PER_ROW = 30.0, 1.65  # a product with few rows, and more for each of them
_CHECK, _CHECKED = 10.0, 60.0  # of a sketched basis: by a second sketch, or one read and products of what is left
_GRAM, _PER_COLUMN = 60.0, 1.8  # a Gram product; from 192 columns on half of it is left out
_LATER = 1000.0  # whatever comes after it, for each number that is left
_FRESH, _KEPT = 100.0, 2**22  # more, where so many numbers are left that their memory comes fresh from the system
_LAUNCH = 1e8  # of the small steps of a sketch, in all


@dataclass(frozen=True, slots=True)
class Block:
    """Some modes at one end of an array.

    Attributes:
        count: how many modes.
        right: at the right end, or the left one.
    """

    count: int
    right: bool

    def matrix(self, x: Tensor) -> Tensor:
        """The array (contiguous) as a matrix whose columns are the block's modes; a view."""
        if self.right:
            return x.reshape(-1, prod(x.shape[x.ndim - self.count :]))
        return x.reshape(prod(x.shape[: self.count]), -1).mT

    def modes(self, x: Tensor) -> tuple[int, ...]:
        """The block's sizes, from the inside outwards."""
        return tuple(x.shape[x.ndim - self.count :]) if self.right else tuple(x.shape[: self.count])[::-1]

    def to_chain(self, rows: Tensor, x: Tensor) -> Tensor:
        """Rows (r, columns of `matrix`) as (r, modes from the inside outwards)."""
        if self.right:
            return rows.reshape(-1, *self.modes(x))
        return rows.reshape(-1, *x.shape[: self.count]).permute(0, *range(self.count, 0, -1))

    def from_chain(self, chain: Tensor) -> Tensor:
        """The inverse of `to_chain`."""
        if not self.right:
            chain = chain.permute(0, *range(self.count, 0, -1))
        return chain.reshape(chain.shape[0], -1)

    def merged(self, rest: Tensor, x: Tensor) -> Tensor:
        """What is left, (rows of `matrix`, r), as an array: r is merged with the mode that it stands beside."""
        if self.right:
            *modes, n = x.shape[: x.ndim - self.count]
            return rest.reshape(*modes, n * rest.shape[1])
        n, *modes = x.shape[self.count :]
        return rest.mT.reshape(rest.shape[1] * n, *modes)

    def others(self, ranks: Sequence[int]) -> Sequence[int]:
        """The ranks of the cuts of what is left."""
        return ranks[: -self.count] if self.right else ranks[self.count :]

    def inner(self, ranks: Sequence[int]) -> Sequence[int]:
        """The ranks of the cuts between its modes, from the inside outwards."""
        return ranks[len(ranks) - self.count + 1 :] if self.right else ranks[: self.count - 1][::-1]

    def join(self, left: Sequence[Tensor], cores: Sequence[Tensor]) -> list[Tensor]:
        """The whole train: of `merged`, and of the block from the inside outwards."""
        r = cores[0].shape[0]
        if self.right:
            last = left[-1]
            return [*left[:-1], last.reshape(last.shape[0], -1, r), *cores]
        first = left[0]
        return [*flip(cores), first.reshape(r, -1, first.shape[2]), *left[1:]]

    def chain(self, cores: Sequence[Tensor]) -> list[Tensor]:
        """The block's own cores of a train of the whole array, from the inside outwards."""
        return list(cores[-self.count :]) if self.right else flip(cores[: self.count])


def thick_block(shape: Sequence[int], ranks: Sequence[int], *, plain_only: bool = False) -> tuple[Block, bool]:
    """The cheapest first block for known ranks, and whether cuts inside it truncate.

    Args:
        shape: of the array, at least two modes.
        ranks: of its cuts.
        plain_only: only blocks without truncation inside.
    """
    best: tuple[float, Block, bool] | None = None
    entries = float(prod(shape))
    for right in (True, False):
        sizes, cuts = (shape[::-1], ranks[::-1]) if right else (shape, ranks)
        columns, plain = 1, True
        for count in range(1, len(shape)):
            columns *= sizes[count - 1]
            rank = min(cuts[count - 1], columns)
            if columns > entries / columns and best is not None:
                break
            if rank < columns and (plain or not plain_only):
                cost = _cost(entries, columns, rank) + (0.0 if plain else 2.0 * entries * rank)
                if best is None or cost < best[0]:
                    best = (cost, Block(count, right), not plain)
            plain = plain and rank == columns
    return (Block(1, True), False) if best is None else best[1:]


def _cost(entries: float, columns: int, rank: int) -> float:
    """Flops, or what takes as long, of a first block and of all that comes after it."""
    wide, rows = rank + oversampling(rank), entries / columns
    costs = [(_GRAM + min(_PER_COLUMN * columns, 150 + columns) + _PRODUCT + _PER_ROW * rank) * entries]
    costs[0] += 30.0 * columns**3
    buckets = min(128.0 * rank, rows / 6)
    poor = buckets < 80 * rank
    found = columns * buckets * (2.0 * columns if columns <= 384 else (6.0 if poor else 14.0) * wide) + _LAUNCH
    if sketch_suffices(rows, columns, rank):  # one projection, straight on the basis that the sketch shows
        costs.append((_READ + _PRODUCT + _PER_ROW * rank + _CHECK) * entries + found)
    if columns >= 48 and wide <= 0.7 * columns:  # a wider one is cut down; a poor sketch takes half a power step
        passes = (2 if poor else 1) * (_PRODUCT + _PER_ROW * wide) + 2.0 * wide**2 / columns
        check = _CHECK if 12 * buckets <= rows else _CHECKED
        costs.append(1.35 * ((_READ + passes + check) * entries + found))
    left = entries * rank / columns
    return min(costs) + (_LATER + (_FRESH if left > _KEPT else 0.0)) * left


def inner_train(rows: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """A train for a block: cores with orthonormal rows whose span holds `rows` as well as the ranks allow.

    Args:
        rows: (r, n_1 … n_j), weighted by their importance.
        ranks: of the j − 1 cuts between its modes.

    Returns:
        cores (r, n_1, r_1) … (r_{j-1}, n_j, 1), right-orthonormal.
    """
    sizes = rows.shape[1:]
    cores: list[Tensor] = []
    flat, after = rows, 1
    for k in range(len(sizes) - 1, 0, -1):
        matrix = flat.reshape(-1, sizes[k] * after)
        rank = min(ranks[k - 1], *matrix.shape)
        if rank == matrix.shape[1]:
            core = torch.eye(rank, dtype=rows.dtype, device=rows.device)
            flat = matrix
        else:
            part = split(matrix, max_rank=rank, side="right")
            core, flat = part.basis.mH, part.rest
        cores.append(core.reshape(rank, sizes[k], after))
        after = rank
    q = torch.linalg.qr(flat.reshape(-1, sizes[0] * after).mH).Q
    cores.append(q.mH.reshape(q.shape[1], sizes[0], after))
    return cores[::-1]


def plain_train(rows: Tensor) -> list[Tensor]:
    """A block (r, n_1 … n_j) as a train whose inner ranks are full: identities, and the rows in the first core."""
    cores: list[Tensor] = []
    after = 1
    for n in reversed(rows.shape[2:]):
        cores.append(torch.eye(n * after, dtype=rows.dtype, device=rows.device).reshape(n * after, n, after))
        after *= n
    cores.append(rows.reshape(rows.shape[0], rows.shape[1], after))
    return cores[::-1]


def contract_train(cores: Sequence[Tensor]) -> Tensor:
    """A train whose last rank is 1, as (r, n_1 … n_j)."""
    whole = cores[-1].reshape(cores[-1].shape[0], -1)
    for core in reversed(cores[:-1]):
        r, n, after = core.shape
        whole = (core.reshape(r * n, after) @ whole).reshape(r, -1)
    return whole.reshape(cores[0].shape[0], *(core.shape[1] for core in cores))


@dataclass(frozen=True, slots=True, eq=False)
class Projected:
    """A matrix projected on orthonormal rows.

    Attributes:
        rest: a rowsᴴ.
        lost2: ‖a − rest rows‖².
        certain: whether that number is more than rounding.
    """

    rest: Tensor
    lost2: float
    certain: bool


def project_rows(a: Tensor, rows: Tensor, norm2: float) -> Projected:
    """Project the rows of `a` (m, n) on the span of orthonormal `rows` (r, n). Cost: 2 m n r, or twice that."""
    rest = project(rows.mT, a.mT).mT
    with torch.no_grad():
        eps = torch.finfo(a.dtype).eps
        lost = norm2 - energy(rest)
        if lost < 2000 * eps * norm2:
            lost = residual_energy(a.detach(), rest.detach(), rows.detach())
        return Projected(rest, lost, lost >= 64 * (4 * eps) ** 2 * norm2)


def flip(cores: Sequence[Tensor]) -> list[Tensor]:
    """The train read from the other end."""
    return [core.permute(2, 1, 0) for core in reversed(cores)]
