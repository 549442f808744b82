"""FunBaT: Tucker factors that are functions of real coordinates, Gaussian processes each, with posterior variances.

    y_e = Σ W_{a b c} u_a(s_e) v_b(t_e) w_c(z_e) + noise,

where u, v, w are processes in state-space form (`tnkit.completion.state_space`), W is Gaussian and the noise has a
gamma prior. By conditional expectation propagation, entry e tells the values of mode k at its coordinate by a Gaussian
message of precision E[τ] E[h hᵀ] and information E[τ] y E[h], h being the rest of the network there; messages that
meet at one coordinate are multiplied (damped against the last ones), and a Kalman filter and smoother gives the new
posterior. Then follow the core and the noise. Every few rounds the length of each mode's kernel moves to the neighbour
on a grid under which the messages are likelier.

Reference: Fang, Yu, Wang, Li, Kirby, Zhe 2024, "Functional Bayesian Tucker decomposition for continuous-indexed tensor
data", ICLR, arXiv:2311.04829.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from typing import TypeVar

import numpy as np

from tnkit.completion.state_space import Chain, Smoothed, smooth

__all__ = ["FunctionalPosterior", "begin", "functional_round"]

Array = np.ndarray
T = TypeVar("T")
#: Numbers of the largest intermediate.
CHUNK = 2**21
#: Priors of the core's entries (variance) and of the noise (shape and rate of the gamma distribution of τ).
CORE_VARIANCE, SHAPE, RATE = 1.0, 1e-3, 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class FunctionalPosterior:
    """Where a fit stands.

    Attributes:
        at: for each mode its coordinates, ascending, on the unit interval.
        chains: for each mode its kernel.
        messages: for each mode precision (n, r, r) and information (n, r) at the coordinates.
        factors: for each mode the posterior there.
        core: (r_1 ⋯ r_d,) mean.
        core_cov: its covariance.
        tau: the expected precision of the noise.
        ranks: r_1 … r_d.
    """

    at: tuple[Array, ...]
    chains: tuple[Chain, ...]
    messages: tuple[tuple[Array, Array], ...]
    factors: tuple[Smoothed, ...]
    core: Array
    core_cov: Array
    tau: float
    ranks: tuple[int, ...]

    def moments(self, points: Sequence[Array]) -> tuple[Array, Array]:
        """Mean and variance of the function (without noise) at some points.

        Args:
            points: for each mode (M,) coordinates on the unit interval; ones outside are extrapolated.
        """
        means, seconds = [], []
        for mode, wanted in enumerate(points):
            mean, second = self.marginals(mode, wanted)
            means.append(mean)
            seconds.append(second)
        return self._function(means, seconds)

    def moments_at(self, indices: Array) -> tuple[Array, Array]:
        """The same at known coordinates, by their places, (M, d)."""
        means, seconds = [], []
        for factor, column in zip(self.factors, indices.T, strict=True):
            means.append(factor.mean[column])
            seconds.append(second_moment(factor)[column])
        return self._function(means, seconds)

    def marginals(self, mode: int, wanted: Array) -> tuple[Array, Array]:
        """First and second moments of a mode's factor at any coordinates: (M, r), (M, r, r)."""
        known, r = self.at[mode], self.ranks[mode]
        every, place = np.unique(np.concatenate([known, wanted]), return_inverse=True)
        precision, information = np.zeros((len(every), r, r)), np.zeros((len(every), r))
        place = place.reshape(-1)
        precision[place[: len(known)]], information[place[: len(known)]] = self.messages[mode]
        found = smooth(self.chains[mode], every, precision, information)
        rows = place[len(known) :]
        return found.mean[rows], second_moment(found)[rows]

    def _function(self, means: Sequence[Array], seconds: Sequence[Array]) -> tuple[Array, Array]:
        mean = _kron(means) @ self.core
        whole = self.core_cov + np.outer(self.core, self.core)
        square = (
            np.concatenate(
                [
                    _quadratic([s[a : a + step] for s in seconds], whole)
                    for step in (max(1, CHUNK // self.core.size**2),)
                    for a in range(0, len(mean), step)
                ]
            )
            if len(mean)
            else mean
        )
        return mean, np.maximum(square - mean**2, 0.0)


def second_moment(factor: Smoothed) -> Array:
    """(n, r, r) E[u uᵀ]."""
    square: Array = factor.cov + factor.mean[:, :, None] * factor.mean[:, None, :]
    return square


def cosines(at: Array, rank: int) -> Array:
    """(n, rank) the first cosines on the unit interval, where a fit begins."""
    waves: Array = np.cos(np.pi * np.arange(rank) * at[:, None])
    waves[:, 1:] *= np.sqrt(2.0)
    return waves


def begin(at: Sequence[Array], chain: Chain, ranks: Sequence[int], y: Array, indices: Array) -> FunctionalPosterior:
    """Cosines as factors, the core that fits them."""
    factors, messages = [], []
    for t, r in zip(at, ranks, strict=True):
        factors.append(Smoothed(cosines(t, r), np.zeros((len(t), r, r)), 0.0))
        messages.append((np.zeros((len(t), r, r)), np.zeros((len(t), r))))
    size = prod(ranks)
    tau = 4.0 / max(float(np.mean(y**2)), 1e-300)
    made = FunctionalPosterior(
        tuple(at), (chain,) * len(at), tuple(messages), tuple(factors), np.zeros(size), np.eye(size), tau, tuple(ranks)
    )
    return with_noise(with_core(made, y, indices), y, indices)


def functional_round(
    s: FunctionalPosterior, y: Array, indices: Array, damping: float, learn: bool
) -> FunctionalPosterior:
    """Messages and smoother of each mode in turn, then the core, then the noise.

    Args:
        s: where the fit stands.
        y: (N,) values.
        indices: (N, d) places of their coordinates.
        damping: share of the new messages.
        learn: whether to adapt the kernels' lengths.
    """
    for mode in range(len(s.at)):
        precision, information = _messages(s, mode, y, indices)
        old = s.messages[mode]
        if old[0].any():
            precision = damping * precision + (1 - damping) * old[0]
            information = damping * information + (1 - damping) * old[1]
        chain = s.chains[mode]
        best = smooth(chain, s.at[mode], precision, information)
        for factor in (0.7, 1.4) if learn else ():
            other = replace(chain, length=chain.length * factor)
            if 0.02 <= other.length <= 10.0:
                found = smooth(other, s.at[mode], precision, information)
                if found.evidence > best.evidence:
                    best, chain = found, other
                    break
        s = replace(
            s,
            chains=_put(s.chains, mode, chain),
            messages=_put(s.messages, mode, (precision, information)),
            factors=_put(s.factors, mode, best),
        )
    return with_noise(with_core(s, y, indices), y, indices)


def _messages(s: FunctionalPosterior, mode: int, y: Array, indices: Array) -> tuple[Array, Array]:
    """Σ E[τ] E[h hᵀ] and Σ E[τ] y E[h] over the entries at each coordinate of a mode."""
    r, n = s.ranks[mode], len(s.at[mode])
    others = [k for k in range(len(s.at)) if k != mode]
    whole = (s.core_cov + np.outer(s.core, s.core)).reshape(*s.ranks, *s.ranks)
    d = len(s.ranks)
    order = [mode, d + mode, *(x for k in others for x in (k, d + k))]
    table = whole.transpose(order).reshape(r * r, -1)  # (r r', Π r_k r_k')
    plain = np.moveaxis(s.core.reshape(s.ranks), mode, 0).reshape(r, -1)
    precision, information = np.zeros((n, r * r)), np.zeros((n, r))
    step = max(1, CHUNK // max(table.shape[1], 1))
    for a in range(0, len(y), step):
        rows = indices[a : a + step]
        square = _kron([second_moment(s.factors[k])[rows[:, k]].reshape(len(rows), -1) for k in others])
        mean = _kron([s.factors[k].mean[rows[:, k]] for k in others])
        if not others:
            square, mean = np.ones((len(rows), 1)), np.ones((len(rows), 1))
        np.add.at(precision, rows[:, mode], s.tau * (square @ table.T))
        np.add.at(information, rows[:, mode], s.tau * y[a : a + step, None] * (mean @ plain.T))
    cube = precision.reshape(n, r, r)
    return 0.5 * (cube + cube.swapaxes(1, 2)), information


def with_core(s: FunctionalPosterior, y: Array, indices: Array) -> FunctionalPosterior:
    """The Gaussian posterior of the core."""
    size = s.core.size
    gram, rhs = np.zeros((size, size)), np.zeros(size)
    step = max(1, CHUNK // size**2)
    d = len(s.ranks)
    order = [*range(0, 2 * d, 2), *range(1, 2 * d, 2)]
    paired = [x for r in s.ranks for x in (r, r)]
    total = np.zeros(size * size)
    for a in range(0, len(y), step):
        rows = indices[a : a + step]
        squares = [second_moment(f)[rows[:, k]].reshape(len(rows), -1) for k, f in enumerate(s.factors)]
        if d > 1:
            total += (_kron(squares[:-1]).T @ squares[-1]).reshape(-1)
        else:
            total += squares[0].sum(0)
        rhs += _kron([f.mean[rows[:, k]] for k, f in enumerate(s.factors)]).T @ y[a : a + step]
    gram = total.reshape(paired).transpose(order).reshape(size, size)
    scale = CORE_VARIANCE * max(float(np.mean(y**2)), 1e-300)
    cov = np.linalg.inv(s.tau * 0.5 * (gram + gram.T) + np.eye(size) / scale)
    cov = 0.5 * (cov + cov.T)
    return replace(s, core=s.tau * cov @ rhs, core_cov=cov)


def with_noise(s: FunctionalPosterior, y: Array, indices: Array) -> FunctionalPosterior:
    """The gamma posterior of the noise."""
    mean, variance = s.moments_at(indices)
    rest = float(((y - mean) ** 2 + variance).sum())
    level = max(float(np.mean(y**2)), 1e-300)
    return replace(s, tau=(SHAPE + 0.5 * len(y)) / (RATE * 1e-3 * level + 0.5 * rest + 1e-12 * level * len(y)))


def _kron(parts: Sequence[Array]) -> Array:
    """(N, Π r) row by row."""
    return reduce(lambda a, b: (a[:, :, None] * b[:, None, :]).reshape(len(a), -1), parts) if parts else np.ones((1, 1))


def _quadratic(seconds: Sequence[Array], whole: Array) -> Array:
    """(M,) Σ whole[p, q] Π_k E[u u'] of the pairs of places that p and q stand for."""
    m, d = len(seconds[0]), len(seconds)
    ranks = [x.shape[1] for x in seconds]
    table = whole.reshape(*ranks, *ranks).transpose([x for k in range(d) for x in (k, d + k)])
    wide = np.broadcast_to(table.reshape(1, ranks[0] ** 2, -1), (m, ranks[0] ** 2, table.size // ranks[0] ** 2))
    left: Array = np.einsum("mp,mpq->mq", seconds[0].reshape(m, -1), wide)
    for second in seconds[1:]:
        left = np.einsum("mp,mpq->mq", second.reshape(m, -1), left.reshape(m, second.shape[1] ** 2, -1))
    flat: Array = left[:, 0]
    return flat


def _put(items: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    return (*items[:place], value, *items[place + 1 :])
