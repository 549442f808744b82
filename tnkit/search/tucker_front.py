"""All core shapes of a Tucker tensor at once: the front of (size, error) from one cumulative sum.

In the bases of the full HOSVD the squared error of a core cut to its corner is the energy outside of the corner, so a
cumulative sum of the squared entries along all modes gives the error of every shape. Sorted by size, the shapes that
keep more than all smaller ones are the front: exact for truncated HOSVDs, and an upper bound of what a fit reaches.

Example:
    >>> import tnkit as tk
    >>> x = tk.random_format("tucker", (9, 9, 9), (2, 3, 4), rng=0).to_dense()
    >>> front = tucker_front(x)
    >>> front.for_error(1e-6), front.for_size(105), front.for_size(9 * 3 + 1)
    ((2, 3, 4), (2, 3, 4), (1, 1, 1))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tnkit.decompose.core_shape import Compressed, turn_to_hosvd
from tnkit.errors import MemoryLimitError

__all__ = ["TuckerFront", "tucker_front"]

_MOST = 10**8  # shapes: three arrays of so many numbers are held


@dataclass(frozen=True, slots=True, eq=False)
class TuckerFront:
    """Core shapes by size, each with a smaller error than all smaller ones.

    Attributes:
        sizes: entries of core and factors together, (points,), rising.
        errors: relative errors of the truncated HOSVD, falling.
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
    x: Tensor, *, norm: float | None = None, sizes: tuple[int, ...] | None = None, lost2: float = 0.0
) -> TuckerFront:
    """The front of an array.

    Args:
        x: (n_0 …), or the core of a Tucker form with orthonormal factors.
        norm: of the whole array, where x is a core of it.
        sizes: n_k of the whole array.
        lost2: the squared error of that form.

    Raises:
        MemoryLimitError: more shapes than can be held.

    Cost:
        a Gram matrix and its eigenvectors for each mode, some passes over an array like x, and sorting it.
    """
    if x.numel() > _MOST:
        raise MemoryLimitError(f"tucker_front: {x.numel()} core shapes; {_MOST} can be held. Give a compressed core.")
    full = tuple(x.shape) if sizes is None else sizes
    eyes = [torch.eye(m, dtype=x.dtype, device=x.device) for m in x.shape]
    core = turn_to_hosvd(Compressed(x, eyes, lost2)).core
    kept = (core * core.conj()).real.to(torch.float64) if core.is_complex() else core.to(torch.float64).square()
    cost = torch.zeros([1] * x.ndim, dtype=torch.int64, device=x.device)
    product = torch.ones_like(cost)
    for k, m in enumerate(x.shape):
        kept.cumsum_(k)
        axis = torch.arange(1, m + 1, device=x.device).reshape([-1 if j == k else 1 for j in range(x.ndim)])
        cost, product = cost + full[k] * axis, product * axis
    order = (cost + product).flatten()
    sorted_cost, place = order.sort()
    energies = kept.flatten()[place]
    best = energies.cummax(0).values
    rises = torch.ones_like(best, dtype=torch.bool)
    rises[1:] = best[1:] > best[:-1]
    points = rises.nonzero().flatten()
    last = torch.ones(len(points), dtype=torch.bool, device=x.device)
    last[:-1] = sorted_cost[points[1:]] > sorted_cost[points[:-1]]
    points = points[last]  # of several of one size the best
    whole2 = float(kept.flatten()[-1]) + lost2 if norm is None else norm**2
    errors = ((whole2 - best[points]).clamp_min(0.0) / whole2).sqrt() if whole2 > 0 else torch.zeros(len(points))
    ranks = torch.stack(torch.unravel_index(place[points], tuple(x.shape)), 1) + 1
    return TuckerFront(sorted_cost[points], errors, ranks)
