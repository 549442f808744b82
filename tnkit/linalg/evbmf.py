"""EVBMF: the rank at which a matrix stops being told from noise, by the analytic solution of variational Bayes.

The noise variance is what makes the free energy least; a singular value counts as signal if it exceeds
√(Mσ²(1 + τ)(1 + α/τ)), α = L/M, τ = 2.5129 √α. A matrix without signal gives rank 0.

Reference: Nakajima et al., Global analytic solution of fully-observed variational Bayesian matrix factorization,
JMLR 14 (2013), 1–37.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import scipy
from numpy.typing import NDArray

__all__ = ["evbmf_rank"]

Floats: TypeAlias = "NDArray[np.floating[Any]]"


def evbmf_rank(s: Floats, rows: int, columns: int) -> int:
    """The number of singular values that stand above noise of unknown variance.

    Args:
        s: (k,) singular values; those that are missing to the smaller side count as zero.
        rows: of the matrix.
        columns: of the matrix.

    Returns:
        0 where none does.

    Cost:
        One search for the noise variance: some hundred sums over the singular values.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 80)) + 0.1 * rng.normal(size=(60, 80))
        >>> evbmf_rank(np.linalg.svd(x, compute_uv=False), 60, 80)
        3
    """
    low, high = min(rows, columns), max(rows, columns)  # L <= M
    energy = np.zeros(low)
    energy[: min(len(s), low)] = np.sort(np.asarray(s, dtype=np.float64))[::-1][:low] ** 2
    if energy[0] == 0.0 or low == 1:
        return int(energy[0] > 0.0)
    alpha = low / high
    tau = 2.5129 * alpha**0.5  # an approximation of the root of the paper's equation for the threshold
    edge = (1 + tau) * (1 + alpha / tau)
    variance = _noise_variance(energy, low, high, alpha, edge)
    return int((energy > high * variance * edge).sum())


def _noise_variance(energy: Floats, low: int, high: int, alpha: float, edge: float) -> float:
    """σ² of the least free energy, between what the small singular values allow and all of the energy."""
    first = min(int(np.ceil(low / (1 + alpha))) - 1, low - 1)
    most = float(energy.sum()) / (low * high)
    least = max(float(energy[first]) / (high * edge), float(energy[first:].mean()) / high)
    least = min(max(least, 1e-12 * most), most)

    def free_energy(log_variance: float) -> float:
        x = energy / (high * np.exp(log_variance))
        signal, noise = x[x > edge], x[x <= edge]
        root = (signal - (1 + alpha) + np.sqrt((signal - (1 + alpha)) ** 2 - 4 * alpha)) / 2  # τ(x), eq. 13
        kept = np.sum(signal - root) + np.sum(np.log((root + 1) / signal)) + alpha * np.sum(np.log(root / alpha + 1))
        return float(kept + np.sum(noise - np.log(np.maximum(noise, 1e-300))))

    grid = np.linspace(np.log(least), np.log(most), 64)
    values = [free_energy(x) for x in grid]
    best = int(np.argmin(values))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    if around[0] == around[1]:
        return float(np.exp(grid[best]))
    solver = scipy.optimize  # SciPy loads it here, not when tnkit is imported
    found = solver.minimize_scalar(free_energy, bounds=around, method="bounded")
    return float(np.exp(found.x if found.fun <= values[best] else grid[best]))
