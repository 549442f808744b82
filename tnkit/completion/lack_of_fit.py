"""Lack of fit: what a model leaves of the function itself, told from noise by residuals at neighbouring points.

Noise at two points is independent, a function that the model cannot express is nearly the same at both. So half the
squared difference of the residuals of near points, as a function of the squared distance, starts at the variance of
the noise (the nugget of the variogram), and what the mean square of the residuals has beyond that is lacking.

References: Cressie 1993, Statistics for Spatial Data, doi:10.1002/9781119115151, §2.4; Gasser, Sroka, Jennen-Steinmetz
1986, doi:10.1093/biomet/73.3.625 (noise by differences).

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
#: As many points say enough.
MOST = 10_000
#: Neighbours of a point.
NEAR = 6
_BLOCK = 512


def lack_of_fit(points: np.ndarray, residuals: np.ndarray, total: float | None = None) -> float:
    """The mean square of the part of residuals that neighbours share; 0 where chance would explain it.

    Args:
        points: (N, d) coordinates, of which one unit along each means about the same.
        residuals: (N,).
        total: variance of lack and noise together; by default the mean square of the residuals.

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
    near, squares = _nearest(points)
    size = float(np.mean(residuals**2))
    if float(np.mean(residuals * residuals[near[:, 0]])) <= 2.0 * size * n**-0.5:
        return 0.0
    halves = 0.5 * (residuals[:, None] - residuals[near]) ** 2
    return max(0.0, (size if total is None else total) - _nugget(squares.mean(0), halves.mean(0)))


def _nugget(squares: np.ndarray, halves: np.ndarray) -> float:
    """Where the line through mean half squares starts, over mean squared distances, a point a neighbour; at least 0."""
    away, rise = squares - squares.mean(), halves - halves.mean()
    spread = float(np.sum(away**2))
    slope = max(0.0, float(np.sum(away * rise)) / spread) if spread > 0 else 0.0
    return max(0.0, float(halves.mean() - slope * squares.mean()))


def _nearest(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places of each point's nearest neighbours, nearest first, and their squared distances: (N, NEAR) each."""
    everyone = torch.as_tensor(points, dtype=torch.float64)
    found, squares = [], []
    for i in range(0, len(everyone), _BLOCK):
        distances = torch.cdist(everyone[i : i + _BLOCK], everyone, compute_mode="donot_use_mm_for_euclid_dist")
        distances[:, i : i + _BLOCK].fill_diagonal_(torch.inf)
        best = distances.topk(NEAR, dim=1, largest=False)
        found.append(best.indices)
        squares.append(best.values.square())
    return torch.cat(found).numpy(), torch.cat(squares).numpy()
