"""Gaussian processes in time as state-space models: transitions, Kalman filter and smoother, in linear time.

A process of a Matérn kernel (ν = 1/2, 3/2) or an integrated Wiener process (whose posterior mean is a cubic smoothing
spline) is a Markov chain in its value and its slope. r independent ones are observed together at n points through
Gaussian pseudo-observations exp(−½ uᵀΛu + ηᵀu), given by precision and information; Λ = 0 where nothing is seen, so
that posteriors at new points come from the same pass.

References: Hartikainen, Särkkä 2010, doi:10.1109/MLSP.2010.5589113; Wahba 1978, doi:10.1111/j.2517-6161.1978.tb01050.x
(splines as such processes).

Example:
    >>> import numpy as np
    >>> t = np.linspace(0.0, 1.0, 5)
    >>> seen = np.full((5, 1, 1), 1e6)
    >>> found = smooth(Chain("matern32", 0.5), t, seen, seen[..., 0] * t[:, None])
    >>> bool(np.abs(found.mean[:, 0] - t).max() < 1e-3)
    True
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["KERNELS", "Chain", "Smoothed", "smooth"]

KERNELS = ("matern12", "matern32", "spline")
Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Chain:
    """A kernel of variance 1 with its length, on points scaled to the unit interval.

    Attributes:
        kernel: "matern12", "matern32" or "spline".
        length: over which values change; for splines the larger the stiffer.
    """

    kernel: str
    length: float

    @property
    def size(self) -> int:
        """Numbers of the state of one process."""
        return 1 if self.kernel == "matern12" else 2

    @property
    def start(self) -> Array:
        """(s, s) the covariance of the state at the first point."""
        if self.kernel == "spline":
            return np.diag([1.0, 1.0 / self.length**2])
        return np.eye(self.size)  # slopes are in units of λ

    def steps(self, gaps: Array) -> tuple[Array, Array]:
        """The transition and the covariance of what is new in it, (m, s, s) each.

        Args:
            gaps: (m,) distances between neighbours.
        """
        if self.kernel == "matern12":
            a = np.exp(-gaps / self.length)[:, None, None]
            return a, 1 - a**2
        one, zero = np.ones_like(gaps), np.zeros_like(gaps)
        if self.kernel == "spline":
            rate = 3.0 / self.length**3  # the value moves by about 1 over the length
            grown = np.stack([gaps**3 / 3, gaps**2 / 2, gaps**2 / 2, gaps], -1)
            return np.stack([one, gaps, zero, one], -1).reshape(-1, 2, 2), rate * grown.reshape(-1, 2, 2)
        x = np.sqrt(3.0) * gaps / self.length
        a = (np.exp(-x)[:, None] * np.stack([1 + x, x, -x, 1 - x], -1)).reshape(-1, 2, 2)
        return a, np.eye(2) - a @ a.swapaxes(1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class Smoothed:
    """The posterior of r processes at n points.

    Attributes:
        mean: (n, r).
        cov: (n, r, r).
        evidence: the logarithm of the integral of the pseudo-observations over the prior.
    """

    mean: Array
    cov: Array
    evidence: float


def smooth(chain: Chain, at: Array, precision: Array, information: Array) -> Smoothed:
    """The posterior of independent processes under joint pseudo-observations at each point.

    Args:
        chain: the prior of each process.
        at: (n,) ascending.
        precision: Λ, (n, r, r) positive semidefinite.
        information: η, (n, r).

    Cost:
        n (r s)³, one point after the other.
    """
    n, r = information.shape
    s = chain.size
    inner = np.eye(r)
    step, new = chain.steps(np.diff(at))
    moves, drifts = (np.einsum("mab,ij->maibj", part, inner).reshape(-1, s * r, s * r) for part in (step, new))
    mean, cov = np.zeros(s * r), np.kron(chain.start, inner)
    means, covs = np.empty((n, s * r)), np.empty((n, s * r, s * r))
    ahead_means, ahead_covs = np.empty((n, s * r)), np.empty((n, s * r, s * r))
    evidence = 0.0
    for k in range(n):
        if k:
            move = moves[k - 1]
            mean, cov = move @ mean, move @ cov @ move.T + drifts[k - 1]
        ahead_means[k], ahead_covs[k] = mean, cov
        seen, known = precision[k], information[k]
        if seen.any():
            own = cov[:r, :r]
            off = known - seen @ mean[:r]
            core = np.linalg.solve(inner + seen @ own, np.column_stack([seen, off]))
            gain = cov[:, :r]
            evidence += known @ mean[:r] - 0.5 * mean[:r] @ seen @ mean[:r] + 0.5 * off @ own @ core[:, r]
            evidence -= 0.5 * np.linalg.slogdet(inner + seen @ own)[1]
            mean, cov = mean + gain @ core[:, r], cov - gain @ core[:, :r] @ gain.T
            cov = 0.5 * (cov + cov.T)
        means[k], covs[k] = mean, cov
    tiny = 1e-12 * np.eye(s * r)
    for k in range(n - 2, -1, -1):
        back = np.linalg.solve(ahead_covs[k + 1] + tiny, moves[k] @ covs[k]).T
        means[k] += back @ (means[k + 1] - ahead_means[k + 1])
        covs[k] += back @ (covs[k + 1] - ahead_covs[k + 1]) @ back.T
    return Smoothed(means[:, :r].copy(), covs[:, :r, :r].copy(), float(evidence))
