"""A Gaussian array whose covariance is separable, from its observed entries: one covariance a mode, learnt.

    y = μ + s z + noise,    z ~ N(0, v Σ_1 ⊗ … ⊗ Σ_d),    noise ~ N(0, s² σ²) in observed entries.

Given the covariances, the missing entries are a Gaussian conditional mean: one system in the observed entries, solved
by conjugate gradients, whose products are with the small Σ_k alone. The covariances follow by expectation maximisation:
an exact draw of z from its posterior (a draw from the prior, corrected by one more such system), whitened along all
modes but one, tells Σ_k. Each is drawn to a target, correlations α ρ^|i−j| with ρ of neighbours, the more so the fewer
slices tell it. So a mode whose positions are ordered is smooth where little is observed, and one whose are not is free.
Where positions of a mode have means of their own, these follow from the draws, too: where a block is missing, the mean
of what is observed is not that of all.

References: Allen, Tibshirani 2010, doi:10.1214/09-AOAS314 (transposable covariances, missing entries); Hoff 2011,
doi:10.1214/11-BA606 (arrays); Wei, Tanner 1990, doi:10.1080/01621459.1990.10474930 (Monte Carlo EM).

Example:
    >>> import torch
    >>> x = torch.arange(20.0).double()[:, None] * torch.ones(8).double()
    >>> seen = torch.rand(20, 8, generator=torch.Generator().manual_seed(0)) < 0.6
    >>> model = Separable(torch.where(seen, x, 0.0), seen, pull=1.0, own=None, rng=torch.Generator().manual_seed(0))
    >>> state = model.start()
    >>> for number in range(1, 5):
    ...     state, _ = model.step(state, number)
    >>> bool((model.dense(state) - x)[~seen].abs().max() < 1.0)
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, sqrt

import torch
from torch import Tensor

from tnkit.linalg.conjugate import conjugate_gradients
from tnkit.rng import normal

__all__ = ["LONGEST", "Separable", "SeparableState", "own_scales"]

#: Observed entries that count for the mean of a position beside its own.
MEAN_PRIOR = 3.0
#: Modes of more positions are taken to have independent ones.
LONGEST = 800
#: σ² is at least this share of the variance.
LEAST_NOISE = 1e-5
#: Draws of a step: so that this many numbers are drawn, at most three times.
DRAWN = 6_000
#: Steps of conjugate gradients for a draw, and for the mean; relative residuals at which they end.
FEW, MANY = (40, 1e-3), (100, 1e-4)
#: Eigenvectors of the preconditioner, and numbers of them at the most.
LEADING, ROOM = 32, 2**24


@dataclass(frozen=True, slots=True, eq=False)
class SeparableState:
    """covariances: Σ_k of mean diagonal 1, None for the identity. variance: v. noise: σ². mean: μ, to be broadcast."""

    covariances: tuple[Tensor | None, ...]
    variance: float
    noise: float
    mean: Tensor


class Separable:
    """Steps of expectation maximisation on one array."""

    def __init__(
        self, m: Tensor, seen: Tensor, *, pull: float, own: int | None, rng: torch.Generator, smooth: bool = True
    ) -> None:
        """Centre and scale the observed entries.

        Args:
            m: the array, 0 where nothing is observed.
            seen: where it is observed.
            pull: how strongly covariances are drawn to their targets, in slices for each position.
            own: the mode whose positions have a mean and a scale of their own, as the columns of a table; None: sums of
                effects of all modes, and one scale.
            rng: draws.
            smooth: whether what neighbours do not share is noise; otherwise it is each position's own.
        """
        self.m, self.seen, self.rng, self.pull, self.smooth, self.own = m, seen, rng, pull, smooth, own
        self.weight = seen.to(m.dtype)
        self.mean, self.scale = own_scales(m, self.weight, own) if own is not None else _effects(m, self.weight)
        first = self.whitened(self.mean)
        self.targets = [self._target(first, k) for k in range(m.ndim)]

    def whitened(self, mean: Tensor) -> Tensor:
        """(y − μ) / s in observed entries, 0 elsewhere."""
        return torch.where(self.seen, (self.m - mean) / self.scale, 0.0)

    def _target(self, t: Tensor, mode: int) -> Tensor | None:
        """Correlations α ρ^|i−j| of positions along a mode; None where there are too many positions."""
        t, w = t.movedim(mode, 0), self.weight.movedim(mode, 0)
        n = t.shape[0]
        if n > LONGEST:
            return None
        near, next_to_near = _alike(t, w, 1), _alike(t, w, 2)
        # noise lowers both by the same factor, so that their ratio is that of the array itself
        rho = max(near, min(next_to_near / near, 0.98)) if near > 0 else 0.0
        place = torch.arange(n, dtype=t.dtype, device=t.device)
        alike: Tensor = t.new_tensor(min(rho, 0.98)) ** (place[:, None] - place[None]).abs()
        share = 1.0 if self.smooth or near <= 0 else near / rho
        return share * alike + (1 - share) * torch.eye(n, dtype=t.dtype, device=t.device)

    def start(self) -> SeparableState:
        """Covariances of the pairs that are observed together."""
        found: list[Tensor | None] = []
        t = self.whitened(self.mean)
        for k, target in enumerate(self.targets):
            if target is None:
                found.append(None)
                continue
            flat, w = _rows(t, k), _rows(self.weight, k)
            gram, counts = flat @ flat.mT, w @ w.mT
            nu = self.pull * len(target) + 2.0
            values, vectors = torch.linalg.eigh((gram + nu * target) / (counts + nu))
            found.append(_of_mean_one((vectors * values.clamp_min(1e-3)) @ vectors.mT))
        return SeparableState(tuple(found), 0.7, 0.3, self.mean)

    def step(self, s: SeparableState, number: int) -> tuple[SeparableState, float]:
        """New covariances, variance, noise and means from draws of the array; and how much the noise has changed."""
        roots, solver = [_root(c) for c in s.covariances], _Solver(self.seen, s)
        t, d = self.whitened(s.mean), self.m.ndim
        numel = t.numel()
        draws = max(1, min(3, DRAWN // numel))
        grams: list[Tensor | None] = [None] * d
        left = size = 0.0
        mean = s.mean
        for _ in range(draws):
            white, z = self._draw(s, t, roots, solver)
            left += float(((t - z).square() * self.weight).sum()) / draws
            if self.own is not None:  # also of what is missing, which may differ from what is observed
                rest = [k for k in range(d) if k != self.own]
                mean = mean + self.scale * z.mean(rest, keepdim=True) / draws
            size += float(white.square().mean()) / draws
            for k, root in enumerate(roots):
                if root is not None:
                    flat = (root @ _rows(white, k)) * (draws * numel / len(root)) ** -0.5
                    before, now = grams[k], flat @ flat.mT
                    grams[k] = now if before is None else before + now
        new: list[Tensor | None] = []
        for gram, target in zip(grams, self.targets, strict=True):
            if gram is None or target is None:
                new.append(None)
                continue
            slices, nu = numel / len(gram), self.pull * len(gram) + 2.0
            new.append(_of_mean_one((slices * _of_mean_one(gram) + nu * target) / (slices + nu)))
        noise = max(LEAST_NOISE, left / max(float(self.weight.sum()), 1.0))
        change = abs(noise - s.noise) / max(noise, s.noise)
        return SeparableState(tuple(new), s.variance * size, noise, mean), change

    def _draw(
        self, s: SeparableState, t: Tensor, roots: Sequence[Tensor | None], solver: _Solver
    ) -> tuple[Tensor, Tensor]:
        """A draw of z from its posterior, and the same before the covariances are put on."""
        white = normal(t.shape, t, self.rng)
        error = s.noise**0.5 * normal(t.shape, t, self.rng)
        prior = s.variance**0.5 * _along(white, roots)
        a = solver.solve(torch.where(self.seen, t - prior - error, 0.0), *FEW)
        white = white + s.variance**0.5 * _along(a, [None if r is None else r.mT for r in roots])
        return white, s.variance**0.5 * _along(white, roots)

    def dense(self, s: SeparableState) -> Tensor:
        """The conditional mean."""
        a = _Solver(self.seen, s).solve(self.whitened(s.mean), *MANY)
        return s.mean + self.scale * s.variance * _along(a, s.covariances)

    def std(self, s: SeparableState, draws: int) -> Tensor:
        """Standard deviations of the array without noise, from draws about the conditional mean.

        Args:
            s: the model.
            draws: how many.
        """
        roots, solver = [_root(c) for c in s.covariances], _Solver(self.seen, s)
        t = self.whitened(s.mean)
        mean = s.variance * _along(solver.solve(t, *MANY), s.covariances)
        square = torch.zeros_like(mean)
        for _ in range(draws):
            square += (self._draw(s, t, roots, solver)[1] - mean).square() / draws
        return self.scale * square.sqrt()


class _Solver:
    """(v K + σ²) a = b in the observed entries, preconditioned by the inverse for the leading eigenvectors of K."""

    def __init__(self, seen: Tensor, s: SeparableState) -> None:
        self.seen, self.s = seen, s
        spectra = [None if c is None else torch.linalg.eigh(c) for c in s.covariances]
        values = torch.ones((1,) * seen.ndim, dtype=torch.float64, device=seen.device)
        for k, spectrum in enumerate(spectra):
            n = seen.shape[k]
            own = values.new_ones(n) if spectrum is None else spectrum[0].clamp_min(0.0).to(values)
            values = values * own.reshape([-1 if j == k else 1 for j in range(seen.ndim)])
        flat = s.variance * values.flatten()
        free = all(spectrum is not None for spectrum in spectra)
        wanted = min(LEADING, flat.numel() // 4, ROOM // flat.numel()) if free else 0
        top, where = torch.topk(flat, wanted)
        kept = int((top > 2 * s.noise).sum())
        self.basis: Tensor | None = None
        self.level = s.noise + max(0.0, float(flat.sum() - top[:kept].sum())) / flat.numel()
        if kept:
            at = torch.unravel_index(where[:kept], seen.shape)
            self.basis = self._columns([spectrum[1] for spectrum in spectra if spectrum is not None], at)
            gram = (self.basis.mT @ self.basis).double() / self.level + torch.diag(1 / top[:kept])
            self.small = torch.cholesky_inverse(torch.linalg.cholesky(gram)).to(self.basis) / self.level**2

    def _columns(self, vectors: Sequence[Tensor], at: Sequence[Tensor]) -> Tensor:
        """(all entries, q) eigenvectors of K, 0 where nothing is observed."""
        product = vectors[0].new_ones(1, len(at[0]))
        for basis, places in zip(vectors, at, strict=True):
            product = (product[:, None, :] * basis[:, places]).flatten(0, 1)
        return product.mul_(self.seen.reshape(-1, 1))

    def product(self, a: Tensor) -> Tensor:
        """(v K + σ²) a."""
        return torch.where(self.seen, self.s.variance * _along(a, self.s.covariances), 0.0) + self.s.noise * a

    def conditioned(self, r: Tensor) -> Tensor:
        """About the inverse of it times r."""
        if self.basis is None:
            return r / self.level
        flat = r.reshape(-1)
        return (flat / self.level - self.basis @ (self.small @ (self.basis.mT @ flat))).reshape(r.shape)

    def solve(self, b: Tensor, steps: int, tol: float) -> Tensor:
        """Conjugate gradients.

        Args:
            b: 0 where nothing is observed.
            steps: at the most.
            tol: relative residual at which they end.
        """
        return conjugate_gradients(self.product, b, self.conditioned, max_steps=steps, tol=tol)


def _along(x: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """The array times M_k along each mode: x ×_1 M_1 … ×_d M_d; None is the identity."""
    shape = x.shape
    for k, matrix in enumerate(matrices):
        if matrix is not None:  # views of three axes: no copies but those of the products
            before, n, after = prod(shape[:k]), shape[k], prod(shape[k + 1 :])
            if after == 1:
                x = x.reshape(before, n) @ matrix.mT
            elif before == 1:
                x = matrix @ x.reshape(n, after)
            else:
                x = matrix @ x.reshape(before, n, after)
    return x.reshape(shape)


def _alike(t: Tensor, w: Tensor, lag: int) -> float:
    """The correlation of positions of the first mode so far apart, less what chance may give; at least 0."""
    both = w[lag:] * w[:-lag]
    pairs: float = both.sum().item()
    if pairs < 8:
        return 0.0
    size = 0.5 * float(((t[lag:].square() + t[:-lag].square()) * both).sum())
    return max(0.0, float((t[lag:] * t[:-lag]).sum()) / max(size, 1e-30) - sqrt(1 / pairs))


def _rows(x: Tensor, mode: int) -> Tensor:
    """The unfolding of a mode."""
    return x.movedim(mode, 0).reshape(x.shape[mode], -1)


def _root(covariance: Tensor | None) -> Tensor | None:
    """A triangular root."""
    if covariance is None:
        return None
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    found: Tensor = torch.linalg.cholesky(covariance + 1e-9 * eye)
    return found


def _of_mean_one(covariance: Tensor) -> Tensor:
    """The same with a mean diagonal of 1."""
    return covariance / covariance.diagonal().mean().clamp_min(torch.finfo(covariance.dtype).tiny)


def own_scales(m: Tensor, weight: Tensor, mode: int) -> tuple[Tensor, Tensor]:
    """Means and scales of the positions of one mode, drawn to those of all."""
    rest = [k for k in range(m.ndim) if k != mode]
    count = weight.sum(rest, keepdim=True)
    overall = (m * weight).sum() / weight.sum()
    plain = (m * weight).sum(rest, keepdim=True) / count.clamp_min(1)
    mean = torch.where(count > 0, plain, overall)
    square = ((m - mean).square() * weight).sum(rest, keepdim=True)
    known = square[count >= 2] / count[count >= 2]
    typical = known[known > 0].log().mean().exp() if bool((known > 0).any()) else torch.ones_like(overall)
    scale = torch.where(square > 0, square / count.clamp_min(1), typical).sqrt()
    return mean, scale


def _effects(m: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of a mean and an effect of each position of each mode, drawn to zero; one scale."""
    d = m.ndim
    mean = (m * weight).sum() / weight.sum()
    parts = [m.new_zeros([n if j == k else 1 for j in range(d)]) for k, n in enumerate(m.shape)]
    for _ in range(6 if d > 1 else 0):
        for k in range(d):
            rest = [j for j in range(d) if j != k]
            others = mean + sum((p for j, p in enumerate(parts) if j != k), torch.zeros_like(mean))
            off, count = ((m - others) * weight).sum(rest, keepdim=True), weight.sum(rest, keepdim=True)
            parts[k] = off / (count + MEAN_PRIOR)
    whole = mean + sum(parts, torch.zeros_like(mean))
    scale = sqrt(float(((m - whole).square() * weight).sum() / weight.sum()))
    return whole, m.new_tensor(scale if scale > 0 else 1.0)
