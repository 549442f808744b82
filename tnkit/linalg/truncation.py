"""The truncation rule: how much energy a rank discards, and the smallest rank that a tolerance allows.

Energies are squared Frobenius norms. They are summed in float64 from the small end, so that a tail of 1e-20 beside a
head of 1 is not lost.

Example:
    >>> import torch
    >>> s2 = torch.tensor([4.0, 1.0, 0.25])
    >>> tails(s2).tolist()
    [5.25, 1.25, 0.25, 0.0]
    >>> rank_for_tail(s2, 0.3), rank_for_tail(s2, 0.2)
    (2, 3)
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rank_for_tail", "tails"]


def tails(s2: Tensor) -> Tensor:
    """The energy that each rank discards.

    Args:
        s2: (..., n) squared singular values, descending; negative noise counts as zero.

    Returns:
        (..., n + 1) in float64 on the same device: entry r is the energy beyond the first r values, the last is 0.
    """
    energy = s2.detach().to(torch.float64).clamp_min(0)
    cumulative = energy.flip(-1).cumsum(-1).flip(-1)
    return torch.cat([cumulative, cumulative.new_zeros((*cumulative.shape[:-1], 1))], dim=-1)


def rank_for_tail(s2: Tensor, tail2: float, *, floor: int = 1) -> int:
    """The smallest rank whose discarded energy is at most `tail2`.

    Args:
        s2: (n,) squared singular values, descending.
        tail2: the energy that may be discarded (a square: eps² times the squared norm).
        floor: the least rank to return (clipped to n).

    Returns:
        a rank from min(floor, n) to n. A `tail2` that is negative gives n.
    """
    tail = tails(s2)
    n = tail.shape[-1] - 1
    if tail2 < 0:
        return n
    fits = int((tail > tail2).sum())  # tails descend, so the count of those too large is the first that fits
    return max(min(fits, n), min(floor, n))
