"""What the spectrum of each cut says of its rank: what the asked error needs, and what stands out of the noise."""

from __future__ import annotations

from math import prod, sqrt

import numpy as np

from tnkit.search.objective import Objective

__all__ = ["needs", "stands_out"]

_UNSURE = 0.02  # share of the squared error that is asked, below which spectra need not be exact
_ABOVE = 1.2  # times the largest singular value of noise


def needs(objective: Objective) -> dict[int, int]:
    """For each set of modes (a bit mask without the last mode) the rank that its unfolding needs at eps."""
    assert objective.cuts is not None
    assert objective.eps is not None
    allowed2 = objective.eps**2 * objective.cuts.norm2 * 1.001
    found = {}
    for mask in range(1, (objective.cuts.full + 1) // 2):
        tails = objective.cuts.tails(mask)
        found[mask] = max(1, next(r for r, tail in enumerate(tails) if tail <= allowed2))
    return found


def stands_out(objective: Objective, least: dict[int, int]) -> dict[int, int]:
    """For each set of modes how many singular values are larger than those of white noise would be.

    What all unfoldings lose at eps is looked at as noise of the smallest variance that any of them shows; an m×n matrix
    of it has singular values of up to about √m + √n standard deviations (Marchenko & Pastur).

    Args:
        objective: with spectra and eps.
        least: from `needs`; the counts are nowhere below.
    """
    cuts, eps = objective.cuts, objective.eps
    assert cuts is not None
    assert eps is not None
    sides = {}
    for mask in least:
        rows = prod(n for k, n in enumerate(cuts.core.shape) if mask >> k & 1)
        sides[mask] = (rows, cuts.core.numel() // rows)
    variances = []
    for mask, (m, n) in sides.items():
        left = (m - least[mask]) * (n - least[mask])
        if left > 0:
            tails = cuts.tails(mask)
            variances.append(float(tails[min(least[mask], len(tails) - 1)]) / left)
    variance = min(variances, default=0.0)
    floor = _UNSURE * eps**2 * cuts.norm2
    found = {}
    for mask, (m, n) in sides.items():
        noise = _ABOVE**2 * variance * (sqrt(m) + sqrt(n)) ** 2
        found[mask] = max(least[mask], int(np.count_nonzero(cuts.energies(mask) > max(noise, floor))))
    return found
