"""Matrices of which only some blocks are there: products, and an orthonormal basis of their leading columns.

An unfolding of a sparse array is such a matrix with blocks of one number. Once some modes have been projected on a
basis, each fibre that is left holds as many numbers as that basis has columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, sqrt

import torch
from torch import Tensor

from tnkit.arrays import check_dense_size
from tnkit.errors import MemoryLimitError
from tnkit.linalg.coordinates import SparseMatrix, add_rows_
from tnkit.linalg.lstsq import orthonormal
from tnkit.linalg.products import energy
from tnkit.linalg.split import split
from tnkit.rng import normal

__all__ = ["BlockSparse", "LeadingPart", "leading_part", "least_rank", "require_room"]

#: Matrices of at most so many entries are made dense.
SMALL = 2**22
#: Numbers of one chunk of a product, on the host and on a device.
CHUNK, CHUNK_DEVICE = 2**17, 2**24
#: Operations up to which a residual is formed where a difference of energies would be noise.
RESIDUAL_WORK = 2e10
#: Columns beyond the rank, power steps, and the share of the error below which a step's gain ends them.
EXTRA, POWER_STEPS, GAIN = 10, 6, 0.01
#: Blocks in a row from which its products are matrix products.
LONG = 32


def require_room(shape: Sequence[int], like: Tensor, what: str) -> None:
    """Refuse a dense part of a result that would not fit the memory.

    Args:
        shape: of the part.
        like: for dtype and device.
        what: the words for it in the message.

    Raises:
        MemoryLimitError: it does not fit; nothing was allocated.
    """
    try:
        check_dense_size(shape, like.dtype, like.device, what=what)
    except MemoryLimitError as error:
        fact = str(error).partition(". Ask")[0]
        raise MemoryLimitError(f"{fact}. Ask for smaller ranks, a larger eps, or give budget=.") from None


@dataclass(frozen=True, eq=False)
class BlockSparse:
    """A matrix (m b, n) with N blocks of (b, 1): the numbers of entry e stand in rows (rows[e], ·) of column cols[e].

    Attributes:
        rows: (N,) from 0 to m - 1, ascending.
        cols: (N,) from 0 to n - 1.
        blocks: (N, b) in double precision.
        m: rows of blocks.
        n: columns.
    """

    rows: Tensor
    cols: Tensor
    blocks: Tensor
    m: int
    n: int

    @property
    def shape(self) -> tuple[int, int]:
        """(m b, n)."""
        return self.m * self.blocks.shape[1], self.n

    @cached_property
    def single(self) -> SparseMatrix:
        """The matrix itself, where blocks hold one number."""
        return SparseMatrix(self.rows, self.cols, self.blocks[:, 0], self.m, self.n)

    def dense(self) -> Tensor:
        """The dense matrix."""
        b = self.blocks.shape[1]
        out = self.blocks.new_zeros((self.m, self.n, b))
        out[self.rows, self.cols] = self.blocks
        return out.movedim(2, 1).reshape(self.m * b, self.n)

    def apply(self, right: Tensor) -> Tensor:
        """The product with a matrix (n, s): (m b, s)."""
        b, s = self.blocks.shape[1], right.shape[1]
        if b == 1:
            return self.single.apply(right)
        out = self.blocks.new_zeros((self.m, b * s))
        if self._long():
            for i, part in self._by_row():
                out[i] = (self.blocks[part].mT @ right[self.cols[part]]).reshape(-1)
        else:
            for part in self._chunks(b * s):
                product = self.blocks[part][:, :, None] * right.index_select(0, self.cols[part])[:, None, :]
                add_rows_(out, self.rows[part], product.reshape(-1, b * s))
        return out.reshape(self.m * b, s)

    def adjoint(self, left: Tensor) -> Tensor:
        """The product of the conjugated transpose with a matrix (m b, s): (n, s)."""
        b, s = self.blocks.shape[1], left.shape[1]
        if b == 1:
            return self.single.transposed(left.conj_physical()).conj_physical()
        out, sides = self.blocks.new_zeros((self.n, s)), left.reshape(self.m, b, s)
        if self._long():
            for i, part in self._by_row():
                add_rows_(out, self.cols[part], self.blocks[part].conj_physical() @ sides[i])
        else:
            for part in self._chunks(b * s):
                near = sides.index_select(0, self.rows[part])
                product = torch.bmm(self.blocks[part].conj_physical()[:, None, :], near)
                add_rows_(out, self.cols[part], product[:, 0])
        return out

    def _long(self) -> bool:
        return self.blocks.shape[0] >= LONG * self.m and self.blocks.device.type == "cpu"

    def _by_row(self) -> Iterator[tuple[int, slice]]:
        stops = torch.cumsum(torch.bincount(self.rows, minlength=self.m), 0).tolist()
        start = 0
        for i, stop in enumerate(stops):
            if stop > start:
                yield i, slice(start, stop)
            start = stop

    def _chunks(self, width: int) -> Iterator[slice]:
        room = CHUNK if self.blocks.device.type == "cpu" else CHUNK_DEVICE
        step = max(1, room // max(1, width))
        for start in range(0, self.blocks.shape[0], step):
            yield slice(start, start + step)

    def columns(self, width: int) -> Iterator[Tensor]:
        """The dense matrix in blocks of at most this many columns."""
        order = torch.argsort(self.cols, stable=True)
        cols = self.cols[order]
        b = self.blocks.shape[1]
        for start in range(0, self.n, width):
            ends = torch.searchsorted(cols, torch.tensor([start, start + width], device=cols.device, dtype=cols.dtype))
            mine = order[int(ends[0]) : int(ends[1])]
            out = self.blocks.new_zeros((self.m, min(width, self.n - start), b))
            out[self.rows[mine], self.cols[mine] - start] = self.blocks[mine]
            yield out.movedim(2, 1).reshape(self.m * b, -1)


@dataclass(frozen=True, slots=True, eq=False)
class LeadingPart:
    """A matrix a cut in two, a ≈ basis @ rest.

    Attributes:
        basis: (m b, r) orthonormal.
        rest: basisᴴ a, (r, n).
        lost2: the squared error, no less than the true one but for `noise2`.
        noise2: by how much rounding may have changed it.
    """

    basis: Tensor
    rest: Tensor
    lost2: float
    noise2: float


def leading_part(
    a: BlockSparse,
    *,
    max_rank: int,
    tail2: float | None,
    norm2: float,
    gen: torch.Generator,
    power_steps: int = POWER_STEPS,
) -> LeadingPart:
    """The leading columns of a matrix: of the smallest rank whose squared error is at most `tail2`.

    Small matrices are made dense and split exactly. Others by a randomised subspace iteration whose error is known from
    the energy that it captures, or from the residual where that difference would be noise (Halko, Martinsson & Tropp,
    arXiv:0909.4061).

    Args:
        a: the matrix.
        max_rank: the largest rank; without `tail2` the rank (less where the matrix has less).
        tail2: the squared error that is allowed. If `max_rank` does not admit it, `lost2` says so.
        norm2: ‖a‖².
        gen: random numbers.
        power_steps: at the most; fewer where they gain nothing.

    Raises:
        MemoryLimitError: the rank that is needed does not fit; nothing was allocated.

    Cost:
        some ten products with the N b numbers for each column of the basis.
    """
    height, n = a.shape
    cap = min(max_rank, height, n)
    if height * n <= SMALL:
        part = split(a.dense(), max_rank=cap, tail2=tail2, norm2=norm2, rng=gen)
        return LeadingPart(part.basis, part.rest, part.discarded2, _fine2(a, norm2))
    short = min(height, n)
    first = cap if tail2 is None else min(cap, max(24, least_rank(a, tail2=tail2, norm2=norm2)))
    width = min(short, first + EXTRA + (cap // 8 if tail2 is None else first // 8))
    start: Tensor | None = None
    while True:
        require_room((height + 2 * n, width), a.blocks, "A basis of an unfolding")
        q, rest, missed, noise2 = _captured(a, width, start, norm2, tail2, gen, power_steps)
        if tail2 is None or missed <= 0.3 * max(tail2, noise2) or width >= min(short, cap + EXTRA + cap // 8):
            break
        start, width = q, min(short, 2 * width, cap + EXTRA + cap // 8)
    left2 = None if tail2 is None else max(tail2 - missed, 0.0)
    part = split(rest, max_rank=min(cap, *rest.shape), tail2=left2, rng=gen)
    return LeadingPart(q @ part.basis, part.rest, missed + part.discarded2, noise2)


def least_rank(a: BlockSparse, *, tail2: float, norm2: float) -> int:
    """A rank below which no approximation has a squared error of `tail2`.

    No singular value is above √(‖a‖₁ ‖a‖∞), taken over the norms of the blocks; so many of them are needed at least.

    Args:
        a: the matrix.
        tail2: the squared error.
        norm2: ‖a‖².
    """
    sizes: Tensor = torch.linalg.vector_norm(a.blocks, dim=1)
    largest = sizes.new_ones(())
    for place, count in ((a.rows, a.m), (a.cols, a.n)):
        sums = sizes.new_zeros(count)
        add_rows_(sums, place, sizes)
        largest = largest * sums.amax()
    return max(1, min(ceil((norm2 - tail2) / float(largest) * (1 - 1e-9)), *a.shape))


def _noise2(a: BlockSparse, norm2: float) -> float:
    """The energy of rounding in sums over this matrix."""
    return 8 * torch.finfo(a.blocks.dtype).eps * norm2


def _fine2(a: BlockSparse, norm2: float) -> float:
    """The energy of rounding in a residual that is formed entry by entry."""
    return (32 * torch.finfo(a.blocks.dtype).eps) ** 2 * norm2


def _captured(
    a: BlockSparse,
    width: int,
    start: Tensor | None,
    norm2: float,
    tail2: float | None,
    gen: torch.Generator,
    power_steps: int,
) -> tuple[Tensor, Tensor, float, float]:
    """A basis q (m b, width), qᴴ a, what that misses, and by how much this number may be wrong."""
    known = 0 if start is None else start.shape[1]
    height, n = a.shape
    if width == height:  # everything
        q = torch.eye(height, dtype=a.blocks.dtype, device=a.blocks.device)
        return q, a.dense(), 0.0, 0.0
    if n > height:  # fewer random numbers, and half a power step
        fresh = a.apply(a.adjoint(normal((height, width - known), a.blocks, gen) / sqrt(height)))
    else:
        fresh = a.apply(normal((n, width - known), a.blocks, gen) / sqrt(n))
    q = orthonormal(fresh if start is None else torch.cat([start, fresh], dim=1))
    noise2 = _noise2(a, norm2)
    rest = a.adjoint(q)  # (n, width)
    missed = norm2 - energy(rest)
    if width < n:
        for _ in range(power_steps):
            if missed <= noise2 or (tail2 is not None and missed <= 0.1 * tail2):
                break
            q = orthonormal(a.apply(orthonormal(rest)))
            rest = a.adjoint(q)
            before, missed = missed, norm2 - energy(rest)
            if before - missed <= GAIN * max(missed, noise2):
                break
    row = rest.mH.resolve_conj()
    if missed >= 200 * noise2:
        return q, row, missed, noise2
    if width == n:
        return q, row, 0.0, _fine2(a, norm2)
    if float(height) * n * width > RESIDUAL_WORK:
        return q, row, max(missed, 0.0), noise2
    left2, place = 0.0, 0
    for block in a.columns(max(1, SMALL // height)):
        there = row[:, place : place + block.shape[1]]
        left2 += energy(block - q @ there)
        place += block.shape[1]
    return q, row, left2, _fine2(a, norm2)
