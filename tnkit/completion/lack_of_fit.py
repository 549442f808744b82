"""Lack of fit: what a model leaves of the function itself, told from noise by residuals at neighbouring points.

Noise at two points is independent, a function that the model cannot express is nearly the same at both. So the mean
product of the residuals of nearest neighbours is the mean square of what is lacking (the variogram without its nugget).

Reference: Cressie 1993, Statistics for Spatial Data, doi:10.1002/9781119115151, §2.4.

Example:
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> points = rng.random((2000, 2))
    >>> noise = rng.normal(size=2000)
    >>> lack_of_fit(points, noise), round(lack_of_fit(points, 2 * np.sin(3 * points[:, 0]) + noise), 0)
    (0.0, 2.0)
"""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["lack_of_fit"]

#: Fewer points than this tell nothing.
LEAST = 20
#: As many neighbours say enough.
MOST = 10_000
_BLOCK = 512


def lack_of_fit(points: np.ndarray, residuals: np.ndarray) -> float:
    """The mean square of the part of residuals that neighbours share; 0 where chance would explain it.

    Args:
        points: (N, d) coordinates, of which one unit along each means about the same.
        residuals: (N,).

    Cost:
        N² distances; of more than `MOST` points those of a slab.
    """
    if len(residuals) > MOST:
        start = (len(residuals) - MOST) // 2
        slab = np.argsort(points[:, 0])[start : start + MOST]
        points, residuals = points[slab], residuals[slab]
    n = len(residuals)
    if n < LEAST:
        return 0.0
    shared = float(np.mean(residuals * residuals[_nearest(points)]))
    chance = 2.0 * float(np.mean(residuals**2)) * n**-0.5
    return shared if shared > chance else 0.0


def _nearest(points: np.ndarray) -> np.ndarray:
    """The place of each point's nearest neighbour."""
    everyone = torch.as_tensor(points, dtype=torch.float64)
    found = []
    for i in range(0, len(everyone), _BLOCK):
        distances = torch.cdist(everyone[i : i + _BLOCK], everyone, compute_mode="donot_use_mm_for_euclid_dist")
        distances[:, i : i + _BLOCK].fill_diagonal_(torch.inf)
        found.append(distances.argmin(1))
    return torch.cat(found).numpy()
