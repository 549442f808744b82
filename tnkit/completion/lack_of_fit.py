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
from scipy.spatial import cKDTree

__all__ = ["lack_of_fit"]

#: Fewer points than this tell nothing.
LEAST = 20


def lack_of_fit(points: np.ndarray, residuals: np.ndarray) -> float:
    """The mean square of the part of residuals that neighbours share; 0 where chance would explain it.

    Args:
        points: (N, d) coordinates, of which one unit along each means about the same.
        residuals: (N,).

    Cost:
        N log N.
    """
    n = len(residuals)
    if n < LEAST:
        return 0.0
    near = cKDTree(points).query(points, k=2)[1][:, 1]
    shared = float(np.mean(residuals * residuals[near]))
    chance = 2.0 * float(np.mean(residuals**2)) * n**-0.5
    return shared if shared > chance else 0.0
