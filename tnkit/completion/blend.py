"""Blends: how much each of several estimates counts, by entries that none of them has seen.

The errors of methods differ, so a mean of two is often nearer than either. The weights are those of least squares among
all that are not negative and sum to one, so a blend is never worse there than the best of its members.

References: Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1 (stacking); Breiman 1996, doi:10.1007/BF00117832 (with
weights that are not negative).

Example:
    >>> import torch
    >>> truth = torch.tensor([1.0, 2.0, 3.0])
    >>> weights = simplex_weights([truth + 1, truth - 1, truth**2 + 5], truth)
    >>> [round(w, 3) for w in weights]
    [0.5, 0.5, 0.0]
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

__all__ = ["blended", "simplex_weights"]

#: Members with less than this are left out.
LEAST = 0.05


def simplex_weights(guesses: Sequence[Tensor], truth: Tensor) -> tuple[float, ...]:
    """The weights w ≥ 0, Σ w = 1, that minimise ‖Σ w_c g_c − y‖², without those below 0.05.

    Args:
        guesses: (N,) each; a few, for all subsets are tried.
        truth: (N,).
    """
    errors = torch.stack([(g - truth).to(torch.float64) for g in guesses])
    gram = errors @ errors.mT
    return _best_subset(gram, range(len(guesses)))


def _best_subset(gram: Tensor, among: Sequence[int]) -> tuple[float, ...]:
    """wᵀ G w at its least, over the subsets of some members."""
    best, least = (0.0,) * gram.shape[0], float("inf")
    for size in range(1, len(among) + 1):
        for members in combinations(among, size):
            part = gram[list(members)][:, list(members)]
            ridge = 1e-10 * float(part.diagonal().mean()) + 1e-300
            w = torch.linalg.solve(
                part + ridge * torch.eye(size, dtype=part.dtype, device=part.device), part.new_ones(size)
            )
            w = w / w.sum()
            error = float(w @ part @ w)
            if bool((w >= (LEAST if size > 1 else 0.0)).all()) and error < least:
                full = gram.new_zeros(gram.shape[0])
                full[list(members)] = w
                best, least = tuple(full.tolist()), error
    return best


def blended(arrays: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ w_c x_c, of those that count."""
    parts = [x if w == 1 else w * x for x, w in zip(arrays, weights, strict=True) if w > 0]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
