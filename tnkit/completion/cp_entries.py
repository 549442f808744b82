"""CP factors at very many coordinates: values, normal equations of the rows, projections; in memory of the entries.

An entry's row of the Khatri–Rao product is made anew wherever it is needed, for some entries at a time. Beside the
entries themselves only their order by each mode is kept (`tnkit.completion.blocks`).

Example:
    >>> import torch
    >>> entries = CPEntries.of(torch.tensor([[0, 1], [2, 0]]), torch.tensor([2.0, 6.0]), (3, 2))
    >>> factors = (torch.ones(3, 1), torch.full((2, 1), 2.0))
    >>> entries.predict(factors).tolist()
    [2.0, 2.0]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tnkit.arrays import machine_eps
from tnkit.completion.blocks import Blocks, segment_sum
from tnkit.completion.observations import Observations
from tnkit.linalg.lstsq import solve_gram

__all__ = ["CPEntries", "with_weights", "without_weights"]

#: Numbers of the largest intermediate that is made at once.
CHUNK = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class CPEntries:
    """N entries of an array, sorted by each mode.

    Attributes:
        columns: for each mode the position of each entry, (N,) int32.
        values: (N,).
        root_weight: (N,) roots of the weights, or None.
        shape: of the array.
        blocks: for each mode its entries by rows; empty where only values are wanted.
    """

    columns: tuple[Tensor, ...]
    values: Tensor
    root_weight: Tensor | None
    shape: tuple[int, ...]
    blocks: tuple[Blocks, ...]

    @staticmethod
    def of(
        indices: Tensor, values: Tensor, shape: Sequence[int], weights: Tensor | None = None, sort: bool = True
    ) -> CPEntries:
        """Sort entries by each mode.

        Args:
            indices: (N, d).
            values: (N,).
            shape: of the array.
            weights: (N,) from 0 to 1, or None.
            sort: False where only values are wanted.
        """
        columns = tuple(column.to(torch.int32) for column in indices.unbind(1))
        blocks = tuple(Blocks.of(c, n, with_places=False) for c, n in zip(columns, shape, strict=True)) if sort else ()
        return CPEntries(columns, values, None if weights is None else weights.sqrt(), tuple(shape), blocks)

    @staticmethod
    def of_observations(obs: Observations) -> CPEntries:
        """Observations, sorted by each mode."""
        return CPEntries.of(obs.indices, obs.values, obs.shape, obs.weights)

    @property
    def n(self) -> int:
        """How many entries."""
        return self.values.shape[0]

    @property
    def norm2(self) -> float:
        """Σ w y²."""
        return float(_weighted(self.values, self.root_weight).abs().square().sum())

    def predict(self, factors: Sequence[Tensor]) -> Tensor:
        """(N,) the model's values.

        Args:
            factors: one (n_k, r) a mode.
        """
        found = torch.empty_like(self.values)
        for a, b in _ranges(self.n, CHUNK // factors[0].shape[1]):
            found[a:b] = self.rows(factors, slice(a, b)).sum(-1)
        return found

    def error2(self, factors: Sequence[Tensor]) -> float:
        """Σ w (y − x̂)²."""
        return float(_weighted(self.values - self.predict(factors), self.root_weight).abs().square().sum())

    def rows(self, factors: Sequence[Tensor], picks: Tensor | slice, without: int | None = None) -> Tensor:
        """(…, r) products of the factors' rows at some entries, one mode left out."""
        product: Tensor | None = None
        for mode, (column, factor) in enumerate(zip(self.columns, factors, strict=True)):
            if mode != without:
                at = column[picks]
                row = factor.index_select(0, at.reshape(-1)).reshape(*at.shape, factor.shape[1])
                product = row if product is None else product.mul_(row)
        if product is None:  # a vector: the product of no factors
            one = self.values[picks].unsqueeze(-1)
            return torch.ones_like(one).expand(*one.shape[:-1], factors[0].shape[1])
        return product

    def solve(self, factors: Sequence[Tensor], mode: int, ridge: Tensor) -> Tensor:
        """The factor of one mode that fits the entries best, all others fixed: normal equations of each row.

        Args:
            factors: one (n_k, r) a mode.
            mode: whose factor is solved for.
            ridge: (r,) added to the diagonals.

        Returns:
            (n, r); rows without entries are zero.
        """
        r, dtype = factors[0].shape[1], self.values.dtype
        gram, rhs = self.normal(factors, mode)
        gram.diagonal(dim1=-2, dim2=-1).add_(ridge.to(dtype))
        mean = gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)
        shift = 16 * machine_eps(dtype) * torch.maximum(mean, mean.amax() * 1e-3)
        shift = torch.where(shift > 0, shift, torch.ones_like(shift))
        solved = torch.cat([solve_gram(g, b, s)[..., 0] for g, b, s in _parts(gram, rhs, shift, CHUNK // (r * r))])
        return factors[mode].new_zeros(factors[mode].shape).index_copy_(0, self.blocks[mode].rows.long(), solved)

    def normal(self, factors: Sequence[Tensor], mode: int) -> tuple[Tensor, Tensor]:
        """Σ w h̄ hᵀ, (G, r, r), and Σ w h̄ y, (G, r, 1), for the rows `blocks[mode].rows` that have entries."""
        r = factors[0].shape[1]
        groups = len(self.blocks[mode].first) - 1
        gram, rhs = self.values.new_zeros(groups, r, r), self.values.new_zeros(groups, r, 1)
        for h, y, low, high, owner in self._chunks(factors, mode, CHUNK // max(r, 8)):
            gram[low:high] += segment_sum(h.mH @ h, owner, high - low)
            rhs[low:high] += segment_sum(h.mH @ y, owner, high - low)
        return gram, rhs

    def project(self, bases: Sequence[Tensor], mode: int, values: Tensor) -> Tensor:
        """Σ y ⊗_{k≠mode} U_k over the entries of each row: the zero-filled array times the other bases.

        Args:
            bases: one (n_k, q) a mode.
            mode: whose rows are summed over.
            values: (N,) in the dtype of the bases.

        Returns:
            (n, q^(d-1)).
        """
        others = [k for k in range(len(bases)) if k != mode]
        blocks, q = self.blocks[mode], bases[0].shape[1]
        width = q ** len(others)
        out = values.new_zeros(self.shape[mode], width)
        for p0, p1 in blocks.block_chunks(
            0, len(blocks.first) - 1, CHUNK // (blocks.size * q ** max(1, len(others) - 1))
        ):
            slots, real = blocks.slots[p0:p1], blocks.real[p0:p1]
            left = (values[slots] * real)[..., None]
            for k in others[:-1]:
                row = bases[k].index_select(0, self.columns[k][slots].reshape(-1)).reshape(*slots.shape, 1, -1)
                left = (left[..., None] * row).flatten(2)
            last = others[-1]
            right = bases[last].index_select(0, self.columns[last][slots].reshape(-1)).reshape(*slots.shape, q)
            low, high = blocks.owner_of(p0), blocks.owner_of(p1 - 1) + 1
            done = (left.mT @ right.conj()).flatten(1) if left.is_complex() else (left.mT @ right).flatten(1)
            out.index_add_(0, blocks.rows[low:high].long(), segment_sum(done, blocks.owner[p0:p1] - low, high - low))
        return out

    def _chunks(
        self, factors: Sequence[Tensor], mode: int, most: int
    ) -> Iterator[tuple[Tensor, Tensor, int, int, Tensor]]:
        """√w h (P, B, r), √w y (P, B, 1), the rows that they belong to, and each block's own."""
        blocks = self.blocks[mode]
        for p0, p1 in blocks.block_chunks(0, len(blocks.first) - 1, most // blocks.size):
            slots, real = blocks.slots[p0:p1], blocks.real[p0:p1]
            h, y = self.rows(factors, slots, without=mode), self.values[slots]
            if self.root_weight is not None:
                w = self.root_weight[slots] * real
                h, y = h * w[..., None], y * w
            elif blocks.padded:
                h, y = h * real[..., None], y * real
            low, high = blocks.owner_of(p0), blocks.owner_of(p1 - 1) + 1
            yield h, y[..., None], low, high, blocks.owner[p0:p1] - low


def _ranges(n: int, most: int) -> Iterator[tuple[int, int]]:
    step = max(1, most)
    for start in range(0, n, step):
        yield start, min(n, start + step)


def _parts(gram: Tensor, rhs: Tensor, shift: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for a, b in _ranges(gram.shape[0], most):
        yield gram[a:b], rhs[a:b], shift[a:b]


def _weighted(values: Tensor, root: Tensor | None) -> Tensor:
    return values if root is None else values * root


def with_weights(factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors of a CP: weights of 1, and the factors."""
    return (factors[0].new_ones(factors[0].shape[1]), *factors)


def without_weights(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The factors of a CP, its weights in the first one."""
    weights, first, *others = tensors
    return (first * weights, *others)
