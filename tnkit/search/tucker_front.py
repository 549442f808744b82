"""All core shapes of a Tucker tensor at once: the front of (size, error) from one cumulative sum.

In the bases of the full HOSVD the squared error of a core cut to its corner is the energy outside of the corner, so a
cumulative sum of the squared entries along all modes gives the error of every shape. Sorted by size, the shapes that
keep more than all smaller ones are the front: exact for truncated HOSVDs. The same holds in any orthonormal bases. So
at some sizes along the front the bases are turned to those of the best shape there by two sweeps of HOOI (De Lathauwer,
De Moor, Vandewalle 2000, doi:10.1137/S0895479898346995), the shapes about it are summed anew, and each keeps the least
of its errors: an upper bound of what a fit reaches, and a close one.

Example:
    >>> import tnkit as tk
    >>> x = tk.random_format("tucker", (9, 9, 9), (2, 3, 4), rng=0).to_dense()
    >>> front = tucker_front(x)
    >>> front.for_error(1e-6), front.for_size(105), front.for_size(9 * 3 + 1)
    ((2, 3, 4), (2, 3, 4), (1, 1, 1))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from tnkit.decompose.core_shape import Compressed, left_vectors, turn_to_hosvd
from tnkit.errors import MemoryLimitError

__all__ = ["TuckerFront", "tucker_front"]

_MOST = 10**8  # shapes: three arrays of so many numbers are held
_SMALL, _SMALLER = 10**6, 16  # of larger arrays bases are found for Tucker tensors of a sixteenth of them at the most
_SWEEPS, _MORE = 2, 4  # of HOOI; ranks beside those of a shape for which its bases serve as well


@dataclass(frozen=True, slots=True, eq=False)
class TuckerFront:
    """Core shapes by size, each with a smaller error than all smaller ones.

    Attributes:
        sizes: entries of core and factors together, (points,), rising.
        errors: relative errors of the truncated form in the bases that were found, falling.
        ranks: (points, modes).
    """

    sizes: Tensor
    errors: Tensor
    ranks: Tensor

    def __len__(self) -> int:
        """Points."""
        return len(self.sizes)

    def for_error(self, eps: float) -> tuple[int, ...]:
        """The smallest shape with an error of at most eps; the largest one where none has."""
        place = int((self.errors > eps).sum())
        return self.at(min(place, len(self) - 1))

    def for_size(self, max_params: int) -> tuple[int, ...]:
        """The best shape within a size; the smallest one where none is."""
        return self.at(max(int((self.sizes <= max_params).sum()) - 1, 0))

    def at(self, place: int) -> tuple[int, ...]:
        """The ranks of a point."""
        return tuple(int(r) for r in self.ranks[place])


def tucker_front(
    x: Tensor,
    *,
    norm: float | None = None,
    sizes: tuple[int, ...] | None = None,
    lost2: float = 0.0,
    polished: int = 24,
) -> TuckerFront:
    """The front of an array.

    Args:
        x: (n_0 …), or the core of a Tucker form with orthonormal factors.
        norm: of the whole array, where x is a core of it.
        sizes: n_k of the whole array.
        lost2: the squared error of that form.
        polished: sizes along the front at which bases are found by HOOI (of a large array up to a sixteenth of it);
            0 for truncated HOSVDs alone.

    Raises:
        MemoryLimitError: more shapes than can be held.

    Cost:
        a Gram matrix and its eigenvectors for each mode, some passes over an array like x, and sorting it; then for
        each polished size the same on a corner of less than three times its ranks.
    """
    if x.numel() > _MOST:
        raise MemoryLimitError(f"tucker_front: {x.numel()} core shapes; {_MOST} can be held. Give a compressed core.")
    full = tuple(x.shape) if sizes is None else sizes
    eyes = [torch.eye(m, dtype=x.dtype, device=x.device) for m in x.shape]
    core = turn_to_hosvd(Compressed(x, eyes, lost2)).core
    points = _points(core, full)
    whole2 = float(points.energies[-1]) + lost2 if norm is None else norm**2
    if polished and x.ndim > 2 and whole2 > 0:
        levels = [
            points.ranks_at(place)
            for place in points.spread(polished, core.numel() // (_SMALLER if core.numel() > _SMALL else 2))
        ]
        points = _merged([points, *(_points(_turned(core, ranks), full) for ranks in levels)])
    errors = ((whole2 - points.energies).clamp_min(0.0) / whole2).sqrt() if whole2 > 0 else 0.0 * points.energies
    return TuckerFront(points.sizes, errors, points.ranks)


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """Shapes by size, each with more energy than all smaller ones: (points,), (points,), (points, modes)."""

    sizes: Tensor
    energies: Tensor
    ranks: Tensor

    def ranks_at(self, place: int) -> tuple[int, ...]:
        return tuple(self.ranks[place].tolist())

    def spread(self, count: int, most: int) -> list[int]:
        """Places at even steps of the logarithm of the size, up to some size."""
        logs = self.sizes.double().log().cpu()
        wanted = torch.linspace(float(logs[0]), max(log(most), float(logs[0])), count + 1, dtype=torch.float64)[1:]
        return list(dict.fromkeys(torch.searchsorted(logs, wanted).clamp_max(len(logs) - 1).tolist()))


def _points(core: Tensor, full: Sequence[int]) -> _Points:
    """The front of the corners of a core."""
    kept = (core * core.conj()).real.to(torch.float64) if core.is_complex() else core.to(torch.float64).square()
    cost = torch.zeros([1] * core.ndim, dtype=torch.int64, device=core.device)
    product = torch.ones_like(cost)
    for k, m in enumerate(core.shape):
        kept.cumsum_(k)
        axis = torch.arange(1, m + 1, device=core.device).reshape([-1 if j == k else 1 for j in range(core.ndim)])
        cost, product = cost + full[k] * axis, product * axis
    sizes, place = (cost + product).flatten().sort()
    energies = kept.flatten()[place]
    points = _front(sizes, energies)
    ranks = torch.stack(torch.unravel_index(place[points], tuple(core.shape)), 1) + 1
    return _Points(sizes[points], energies[points], ranks)


def _front(sizes: Tensor, energies: Tensor) -> Tensor:
    """Of points of rising size those with more energy than all before; of several of one size the best."""
    best = energies.cummax(0).values
    rises = torch.ones_like(best, dtype=torch.bool)
    rises[1:] = best[1:] > best[:-1]
    points = rises.nonzero().flatten()
    last = torch.ones(len(points), dtype=torch.bool, device=sizes.device)
    last[:-1] = sizes[points[1:]] > sizes[points[:-1]]
    return points[last]


def _merged(parts: Sequence[_Points]) -> _Points:
    """The front of several."""
    sizes, energies, ranks = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("sizes", "energies", "ranks")
    )
    sizes, order = sizes.sort(stable=True)
    points = _front(sizes, energies[order])
    return _Points(sizes[points], energies[order][points], ranks[order][points])


def _turned(core: Tensor, ranks: Sequence[int]) -> Tensor:
    """A corner of a core in the bases of its best approximation at some ranks, and a few vectors more."""
    corner = core[tuple(slice(0, 2 * r + _MORE) for r in ranks)]
    bases = [torch.eye(m, dtype=core.dtype, device=core.device) for m in corner.shape]
    for k in list(range(core.ndim)) * _SWEEPS:
        inside = corner
        for j, r in enumerate(ranks):
            if j != k:
                inside = _in_basis(inside, bases[j][:, :r], j)
        bases[k] = left_vectors(inside.movedim(k, 0).reshape(corner.shape[k], -1))
    for k, r in enumerate(ranks):
        corner = _in_basis(corner, bases[k][:, : r + r // 2 + _MORE], k)
    return corner


def _in_basis(t: Tensor, basis: Tensor, mode: int) -> Tensor:
    """Coordinates in orthonormal columns."""
    turned: Tensor = torch.tensordot(basis.mH, t, dims=([1], [mode])).movedim(0, mode)
    return turned
