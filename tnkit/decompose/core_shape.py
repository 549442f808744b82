"""The best shape of a Tucker core, from one cumulative sum.

In the HOSVD's bases the error of a core that is cut to its leading corner is the energy outside of the corner. A
cumulative sum of the squared entries along all modes gives the energy of every corner at once, so the cheapest shape
for an error, or the best for a size, is found among all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from tnkit.linalg import choose_ranks, spectrum

__all__ = ["Compressed", "cheapest_core", "left_vectors", "turn_to_hosvd"]

_RESOLVED = 1e-10  # share of the energy below which a cumulative sum is rounding, and the tails of the modes are used
_LARGE = 30_000_000  # entries from which the tails of the modes are used as well


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """A Tucker form with orthonormal factors, and the squared error.

    Attributes:
        core: (r_0 …).
        factors: (n_k, r_k).
        lost2: the squared error.
    """

    core: Tensor
    factors: list[Tensor]
    lost2: float


def turn_to_hosvd(value: Compressed) -> Compressed:
    """The same tensor with the core's own singular vectors as bases: slices of falling energy, all-orthogonal."""
    core, factors = value.core, []
    for k, factor in enumerate(value.factors):
        if core.shape[k] == 1:
            factors.append(factor)
            continue
        matrix = core.movedim(k, 0).reshape(core.shape[k], -1)
        vectors = left_vectors(matrix)
        factors.append(factor @ vectors)
        core = torch.tensordot(vectors.mH, core, dims=([1], [k])).movedim(0, k)
    return Compressed(core.contiguous(), factors, value.lost2)


def left_vectors(matrix: Tensor) -> Tensor:
    """All left singular vectors, (n, n), in falling order."""
    n, m = matrix.shape
    if n <= m:
        return spectrum(matrix).vectors
    u: Tensor = torch.linalg.svd(matrix, full_matrices=True)[0]
    return u


def cheapest_core(
    core: Tensor,
    shape: Sequence[int],
    error2: float | None,
    max_params: int | None,
    caps: Sequence[int],
) -> tuple[int, ...]:
    """The ranks with the fewest entries for an error, or the least error for a size.

    Args:
        core: in its HOSVD bases.
        shape: of the array, for the factors' sizes.
        error2: the energy that may be cut off.
        max_params: entries of core and factors together.
        caps: the largest ranks.

    Returns:
        with both limits the cheapest core for the error, if it fits the size; else the best one for the size.

    Cost:
        three passes over an array like the core.
    """
    kept = core[tuple(slice(0, cap) for cap in caps)]
    parts = [kept.real, kept.imag] if kept.is_complex() else [kept]
    energy = parts[0].to(torch.float64).square()
    for part in parts[1:]:
        energy += part.to(torch.float64).square()
    whole = float(energy.sum()) if kept.shape == core.shape else _energy(core)
    if energy.numel() > _LARGE or (error2 is not None and error2 < _RESOLVED * whole):
        slices = [energy.movedim(k, 0).reshape(energy.shape[k], -1).sum(1) for k in range(energy.ndim)]

        def cost(ranks: tuple[int, ...]) -> int:
            return prod(ranks) + sum(n * r for n, r in zip(shape, ranks, strict=True))

        allowed = None if error2 is None else max(error2, 0.0)
        return choose_ranks(slices, cost, max_error2=allowed, max_cost=max_params)
    for k in range(energy.ndim):
        energy.cumsum_(k)
    grid = _Grid(tuple(energy.shape), tuple(shape), core.device)
    if error2 is not None:
        # what is needed of the corner, not above what the largest one has
        needed = min(whole - error2, float(energy.flatten()[-1]) * (1 - 1e-15))
        found = grid.cheapest(energy, needed)
        if max_params is None or grid.cost(found) <= max_params:
            return found
    assert max_params is not None
    return grid.best(energy, max_params)


def _energy(t: Tensor) -> float:
    return float(torch.linalg.vector_norm(t, dtype=torch.complex128 if t.is_complex() else torch.float64)) ** 2


class _Grid:
    """The cost of every corner, by slices along the first mode."""

    def __init__(self, ranks: tuple[int, ...], shape: tuple[int, ...], device: torch.device) -> None:
        self.ranks, self.shape = ranks, shape
        axes = [torch.arange(1, r + 1, device=device) for r in ranks[1:]]
        self.product = torch.ones([1] * len(axes) or [1], dtype=torch.int64, device=device)
        self.linear = torch.zeros_like(self.product)
        for k, axis in enumerate(axes):
            view = axis.reshape([-1 if j == k else 1 for j in range(len(axes))])
            self.product = self.product * view
            self.linear = self.linear + shape[k + 1] * view

    def costs(self, first: int) -> Tensor:
        """Of all corners with this first rank."""
        return first * self.product + self.linear + self.shape[0] * first

    def cost(self, ranks: tuple[int, ...]) -> int:
        return prod(ranks) + sum(n * r for n, r in zip(self.shape, ranks, strict=True))

    def corner(self, first: int, flat: int) -> tuple[int, ...]:
        rest = self.ranks[1:]
        place = [int(i) + 1 for i in torch.unravel_index(torch.tensor(flat), rest)] if rest else []
        return (first, *place)

    def cheapest(self, energy: Tensor, needed: float) -> tuple[int, ...]:
        best, least = self.ranks, self.cost(self.ranks)
        most = torch.iinfo(torch.int64).max
        for first in range(1, self.ranks[0] + 1):
            layer = energy[first - 1].reshape(self.product.shape)
            if float(layer.flatten()[-1]) < needed:
                continue
            costs = torch.where(layer >= needed, self.costs(first), most)
            value, place = costs.flatten().min(0)
            if int(value) < least:
                best, least = self.corner(first, int(place)), int(value)
        return best

    def best(self, energy: Tensor, max_params: int) -> tuple[int, ...]:
        found, most = (1,) * len(self.ranks), -1.0
        for first in range(1, self.ranks[0] + 1):
            costs = self.costs(first)
            if int(costs.flatten()[0]) > max_params:
                break
            layer = energy[first - 1].reshape(self.product.shape)
            value, place = torch.where(costs <= max_params, layer, -1.0).flatten().max(0)
            if float(value) > most:
                found, most = self.corner(first, int(place)), float(value)
        return self.fill(found, max_params)

    def fill(self, ranks: tuple[int, ...], max_params: int) -> tuple[int, ...]:
        """Raise ranks, the smallest first, while the size admits it: where the data need no more they do no harm."""
        grown = list(ranks)
        open_modes = set(range(len(grown)))
        while open_modes:
            k = min(open_modes, key=lambda j: (grown[j], j))
            grown[k] += 1
            if grown[k] > self.ranks[k] or self.cost(tuple(grown)) > max_params:
                grown[k] -= 1
                open_modes.discard(k)
        return tuple(grown)
