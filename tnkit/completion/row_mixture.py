"""Rows as draws from a mixture of Gaussians, some of their entries missing: expectation maximisation.

    row ~ Σ_k π_k N(μ_k, Σ_k)

The rows are independent and may be in any order; what is learnt is how the columns depend on each other, in each of a
few groups of rows. Of a row with missing entries m and observed ones o, a group says, with Λ = Σ⁻¹,

    E[x_m | x_o] = μ_m − Λ_mm⁻¹ Λ_mo (x_o − μ_o),    Cov[x_m | x_o] = Λ_mm⁻¹,
    log N(x_o) = −½ ((x̂ − μ)ᵀ Λ (x̂ − μ) + log|Σ| + log|Λ_mm| + |o| log 2π),

so that a step costs one small system per row, of the size of what is missing there. Covariances are drawn to the
identity by `pull` rows, and those of several groups to that of all.

References: Dempster, Laird, Rubin 1977, doi:10.1111/j.2517-6161.1977.tb01600.x; Ghahramani, Jordan 1994 (supervised
learning from incomplete data by EM); Little, Rubin 2019, doi:10.1002/9781119482260, chapter 11.

Example:
    >>> import torch
    >>> x = torch.tensor([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0], [4.0, 0.0]]).double()
    >>> seen = torch.tensor([[True, True]] * 3 + [[True, False]])
    >>> rows = Rows(x, seen)
    >>> state = rows.one(pull=0.01)
    >>> for _ in range(60):
    ...     state, _ = rows.step(state)
    >>> bool((state.filled[3, 1] - 8).abs() < 0.5)
    True
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log, pi

import torch
from torch import Tensor

__all__ = ["Rows", "RowsState"]

#: Numbers of a batch of small systems.
BATCH = 2**21
#: Σ is at least this, where the columns have variance 1.
LEAST = 1e-6
#: Rows that count for each group beside its own, so that none dies out.
SHARE = 1.0
#: Rounds by which rows are first put into groups.
ROUNDS = 15


@dataclass(frozen=True, slots=True, eq=False)
class RowsState:
    """A mixture of K Gaussians of d columns, and what it makes of the rows.

    Attributes:
        means: (K, d).
        covariances: (K, d, d).
        shares: (K,) π.
        pull: rows that draw to `target`.
        target: (d, d).
        filled: (n, d) observed entries and expectations.
        variance: (n, d) of what is missing, given what is observed; 0 where observed.
    """

    means: Tensor
    covariances: Tensor
    shares: Tensor
    pull: float
    target: Tensor
    filled: Tensor
    variance: Tensor


class Rows:
    """Steps of expectation maximisation on one table."""

    def __init__(self, x: Tensor, seen: Tensor) -> None:
        """Sort out what is missing of each row.

        Args:
            x: (n, d) of columns of mean about 0 and variance about 1; what stands in missing entries is not read.
            seen: (n, d) bool.
        """
        self.x, self.seen = torch.where(seen, x, 0.0), seen
        count = (~seen).sum(1)
        order = torch.argsort(count, stable=True)
        self.order = order[count[order] > 0]  # rows with the fewest missing first, so that batches are alike in size
        self.counts = count[self.order].tolist()
        self.places = torch.argsort(seen.to(torch.int8), dim=1, stable=True)  # the missing columns first

    def one(self, pull: float) -> RowsState:
        """A single Gaussian to start from: that of the table with every missing entry drawn apart, of variance 1."""
        d = self.x.shape[1]
        eye = torch.eye(d, dtype=self.x.dtype, device=self.x.device)
        flat = self.x.new_zeros(1, d)
        alone, apart = self.x.new_ones(1), (~self.seen).to(self.x)
        start = RowsState(flat, eye[None], alone, pull, eye, self.x, apart)
        share = self.x.new_ones(len(self.x), 1)
        return self._moments(start, share, flat, self.x[:, None], torch.diag(apart.sum(0))[None])

    def several(self, single: RowsState, groups: int, rng: torch.Generator) -> RowsState:
        """A mixture to start from: rows, as a single Gaussian has filled them, in groups about a few of them.

        Args:
            single: a fitted single Gaussian.
            groups: how many, no more than rows.
            rng: chooses the first rows.
        """
        x = single.filled
        centres = _spread_out(x, groups, rng)
        near = torch.cdist(x, centres).argmin(1)
        for _ in range(ROUNDS):
            size = torch.bincount(near, minlength=groups).to(x)[:, None]
            total = torch.zeros_like(centres).index_add_(0, near, x)
            centres = torch.where(size > 0, total / size.clamp_min(1), centres)
            near = torch.cdist(x, centres).argmin(1)
        share = torch.nn.functional.one_hot(near, groups).to(x)
        target = single.covariances[0]
        start = replace(single, pull=single.pull + x.shape[1], target=target)
        return self._moments(start, share, centres, x[:, None].expand(-1, groups, -1), target.new_zeros(1, 1, 1))

    def step(self, s: RowsState) -> tuple[RowsState, float]:
        """Expectations of what is missing, and means and covariances from them; how much they changed."""
        parts = [self._expect(mean, covariance) for mean, covariance in zip(s.means, s.covariances, strict=True)]
        scores = torch.stack([part[3] for part in parts], 1) + s.shares.log()
        share = torch.softmax(scores, 1)
        filled = torch.stack([part[0] for part in parts], 1)  # (n, K, d)
        mean = (share[..., None] * filled).sum(1)
        within = torch.stack([part[1] for part in parts], 1) + (filled - mean[:, None]).square()
        variance = torch.where(self.seen, 0.0, (share[..., None] * within).sum(1))
        spread = torch.stack([self._summed(part[2], share[:, k]) for k, part in enumerate(parts)])
        after = self._moments(s, share, s.means, filled, spread)
        change = float((mean - s.filled).norm()) / (float(mean.norm()) or 1.0)
        return replace(after, filled=mean, variance=variance), change

    def _moments(self, s: RowsState, share: Tensor, means: Tensor, filled: Tensor, spread: Tensor) -> RowsState:
        """Means, covariances and shares from rows that belong to each group in part."""
        size = share.sum(0)
        total = torch.einsum("nk,nkd->kd", share, filled)
        held = SHARE * (len(size) > 1)
        new = (total + held * means) / (size + held)[:, None]
        off = filled - new
        gram = torch.einsum("nk,nkd,nke->kde", share, off, off) + spread + s.pull * s.target
        eye = torch.eye(new.shape[1], dtype=new.dtype, device=new.device)
        covariances = gram / (size + s.pull)[:, None, None] + LEAST * eye
        return replace(s, means=new, covariances=covariances, shares=(size + SHARE) / (size + SHARE).sum())

    def _expect(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, list[tuple[Tensor, ...]], Tensor]:
        """Filled rows, their variances, covariances batch by batch, and log densities of what is observed."""
        root = torch.linalg.cholesky(covariance)
        precision = torch.cholesky_inverse(root)
        off = torch.where(self.seen, self.x - mean, 0.0)
        push = off @ precision
        variance = torch.zeros_like(off)
        logdet = 2 * root.diagonal().log().sum().expand(len(off)).clone()
        batches: list[tuple[Tensor, ...]] = []
        first = 0
        while first < len(self.counts):
            stop = self._batch(first)
            rows, width = self.order[first:stop], self.counts[stop - 1]
            at = self.places[rows, :width]  # (b, q), the first of them missing
            missing = ~torch.gather(self.seen[rows], 1, at)
            both = missing[:, :, None] & missing[:, None, :]
            eye = torch.eye(width, dtype=off.dtype, device=off.device)
            small = torch.where(both, precision[at[:, :, None], at[:, None, :]], eye)
            chol = torch.linalg.cholesky(small)
            inverse = torch.cholesky_inverse(chol) * both
            wanted = torch.where(missing, torch.gather(push[rows], 1, at), 0.0)
            shift = -(inverse @ wanted[..., None])[..., 0]
            off[rows] = off[rows].scatter_add(1, at, shift)
            variance[rows] = variance[rows].scatter_add(1, at, inverse.diagonal(dim1=1, dim2=2))
            logdet[rows] += 2 * chol.diagonal(dim1=1, dim2=2).log().sum(1)
            batches.append((rows, at, inverse))
            first = stop
        quadratic = (off * (off @ precision)).sum(1)
        density = -0.5 * (quadratic + logdet + self.seen.sum(1) * log(2 * pi))
        return torch.where(self.seen, self.x, off + mean), variance, batches, density

    def _batch(self, first: int) -> int:
        """Where a batch ends: systems of about one size, and not too many."""
        stop, most = first + 1, max(4, 2 * self.counts[first])
        while stop < len(self.counts) and self.counts[stop] <= most:
            if (stop + 1 - first) * self.counts[stop] ** 2 > BATCH:
                break
            stop += 1
        return stop

    def _summed(self, batches: list[tuple[Tensor, ...]], share: Tensor) -> Tensor:
        """Σ_n share_n Cov_n."""
        d = self.x.shape[1]
        total = self.x.new_zeros(d * d)
        for rows, at, inverse in batches:
            place = at[:, :, None] * d + at[:, None, :]
            total.index_add_(0, place.reshape(-1), (share[rows, None, None] * inverse).reshape(-1))
        return total.reshape(d, d)


def _spread_out(x: Tensor, groups: int, rng: torch.Generator) -> Tensor:
    """Some rows far from each other: each is chosen by the squares of the distances to those before it."""
    first = int(torch.randint(len(x), (), generator=rng, device=rng.device))
    chosen = [x[first]]
    while len(chosen) < groups:
        far = torch.cdist(x, torch.stack(chosen)).square().amin(1)
        weight = far.to(rng.device) + 1e-12
        chosen.append(x[int(torch.multinomial(weight, 1, generator=rng))])
    return torch.stack(chosen)
