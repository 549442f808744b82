"""Split by a randomised range finder that proves its result: the cheapest for a rank far below the matrix's sides.

1. Sketch: the long side is summed into a few thousand buckets (`count_sketch`, one read), and the leading subspace of
   that small matrix is the first basis Q. Where the matrix is too small for that, Q spans a Ω for a Gaussian Ω.
2. Project: B = Qᴴ a, and the Ritz values from the small B. ‖a‖² − ‖B‖² is what Q misses; where that difference would
   be noise, the residual is formed.
3. If a tolerance was asked and is not reached, Q grows by the leading directions of what the sketch has outside Q.
4. Check: what of the energy outside Q lies in the kept right vectors is what a power step would gain. A second sketch,
   of which Q knows nothing, gives an estimate without a further read; where there is none, random combinations z of
   the kept right vectors and the part of a z outside Q do (one read). While the gain is more than 1 % of what is
   discarded, a power step is done.

So a flat noise floor, which a plain sketch misses by tens of percent, costs power steps only where they help.

Reference: Halko, Martinsson & Tropp, doi:10.1137/090771806, algorithms 4.2 and 4.4; Tropp & Webber,
arXiv:2306.12418, for a posteriori estimates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tnkit.linalg.cut import Cut, Split, certify, gram_noise2, residual_noise2, rounding2
from tnkit.linalg.lstsq import orthonormal
from tnkit.linalg.products import apply_rows, cross, energy, gram, project, project_with_gram, row_energies
from tnkit.linalg.sketch import count_sketch, twin_sketches
from tnkit.linalg.split_gram import gram_eigen, gram_split
from tnkit.linalg.split_qr import qr_split
from tnkit.linalg.split_svd import safe_svd
from tnkit.linalg.truncation import tails
from tnkit.linalg.tsqr import triangle
from tnkit.registry import SPLIT_DRIVERS
from tnkit.rng import normal

__all__ = [
    "SketchedRange",
    "oversampling",
    "randomised_split",
    "sketch_suffices",
    "sketched_range",
    "try_randomised",
]

_SMALL = 384  # sides up to this are solved by eigenvalues, larger ones by subspace iteration
_BUCKETS = 128  # buckets of the sketch for each unit of rank: it alone then costs about 1/256 of the error
_POOR = 80  # with fewer for each unit of rank a power step will be worth while
_GAIN = 0.01  # energy that a power step must promise, as a share of what is discarded
_PROBES = 8  # products with six take twice the time
_POWER_STEPS = 6
_TWINS = 12  # a second sketch so much narrower than the matrix costs less than a read
_UNEVEN = 6.0  # mean of squares over square of mean; 1 + 2/rank for even data


def oversampling(rank: int) -> int:
    """How many columns more than the rank a basis has while it is sought: 8 and an eighth, to a multiple of four."""
    least = 8 + rank // 8
    return least + -(rank + least) % 4


def randomised_split(a: Tensor, cut: Cut) -> Split:
    """Left split of `a` (m, n); where the rank turns out to be near full, an exact driver finishes it.

    Cost: two reads and 2 m n (r + 8) for the projection; for each power step twice that product; for a tall matrix one
    projection more.
    """
    split = try_randomised(a, cut, limit=int(0.7 * min(a.shape)))
    if split is not None:
        return split
    reach = 100 * gram_noise2(a.dtype, cut.norm2, precise=True)
    return (gram_split if cut.tail2 is not None and cut.tail2 >= reach else qr_split)(a, cut)


def try_randomised(a: Tensor, cut: Cut, *, limit: int) -> Split | None:
    """The split, or None as soon as it would need a basis of more than `limit` columns."""
    if a.shape[0] <= a.shape[1]:
        return _wide(a, cut, limit)
    turned = _wide(a.mT, cut, limit)
    if turned is None:
        return None
    basis = orthonormal(turned.rest.mT)  # spans a V for the right subspace V, so it misses no more than V does
    rest = project(basis, a)
    lost = certify(a, basis, rest, cross(rest), cut.norm2)
    certain = lost >= 64 * residual_noise2(a.dtype, cut.norm2)
    return replace(turned, basis=basis, rest=rest, discarded2=lost, certain=certain)


def _wide(a: Tensor, cut: Cut, limit: int) -> Split | None:
    """The same for m <= n."""
    most = min(a.shape[0], cut.max_rank + oversampling(cut.max_rank))
    if cut.tail2 is None and most > limit:
        return None
    finder = _Finder(a, cut, most if most <= limit and (cut.tail2 is None or most <= 40) else None)
    shows = cut.tail2 is None and not finder.poor and sketch_suffices(a.shape[1], a.shape[0], cut.max_rank)
    seen = _seen(finder, cut) if shows else None
    straight = None if seen is None else _straight(a, seen, cut)
    if straight is not None:
        return straight
    columns = finder.columns(limit)
    if columns is None or columns >= a.shape[0]:
        return None
    state = _measure(a, finder.start(columns), None, cut)
    while not _enough(state, cut, most):
        grown = min(most, 2 * state.q.shape[1])
        if grown > limit or grown >= a.shape[0]:
            return None
        more = finder.more(state, grown - state.q.shape[1])
        rows = project(more, a)
        state = _measure(a, torch.cat([state.q, more], dim=1), torch.cat([state.b, rows]), cut)
    for number in range(_POWER_STEPS):
        forced = number == 0 and finder.sketch is not None and finder.poor and not finder.stepped
        if not forced and not _gains(a, finder.second, state, cut):
            break
        before = state
        _rotate_(state.b, state.u / state.s2.clamp_min(state.s2[0] * 1e-30 + 1e-300).sqrt())
        q = orthonormal(apply_rows(a, state.b))
        state = _measure(a, q, project(q, a, out=state.b), cut)
        if before.lost - state.lost <= 0.2 * _GAIN * state.lost:
            break
    return _finish(a, state, cut)


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """A basis q (m, k), b = qᴴ a (k, n), its left singular vectors u (k, k) and values s2, float64."""

    q: Tensor
    b: Tensor
    u: Tensor
    s2: Tensor
    missed: float  # ‖a‖² − ‖b‖²
    rank: int
    fits: bool  # the tolerance is met within max_rank

    @property
    def lost(self) -> float:
        return self.missed + float(tails(self.s2)[self.rank])


def _measure(a: Tensor, q: Tensor, b: Tensor | None, cut: Cut) -> _State:
    b, inner = project_with_gram(q, a) if b is None else (b, cross(b))
    missed = certify(a, q, b, inner, cut.norm2)
    s2, u = torch.linalg.eigh(inner)
    s2, u = s2.flip(0).clamp_min(0), u.flip(1)
    rank, fits = _rank(s2, missed, cut, a.dtype)
    if missed + float(tails(s2)[rank]) < 1000 * torch.finfo(torch.float64).eps * cut.norm2:
        left, s, _ = safe_svd(triangle(b.mT).mT)  # the Gram of b does not resolve that
        s2, u = s.to(torch.float64).square(), left.to(u.dtype)
        rank, fits = _rank(s2, missed, cut, a.dtype)
    return _State(q, b, u, s2, missed, rank, fits)


def _rank(s2: Tensor, missed: float, cut: Cut, dtype: torch.dtype) -> tuple[int, bool]:
    """The rank, and whether the tolerance is met at it."""
    k = s2.shape[0]
    if cut.tail2 is None:
        return min(cut.max_rank, k), True
    noise2 = 4 * torch.finfo(torch.float64).eps * cut.norm2
    allowed = max(cut.tail2, rounding2(dtype, 4 * k, cut.norm2))
    left = tails(s2) + missed
    margin = noise2 if allowed > 100 * noise2 else 0.0
    rank = max(1, int((left > allowed - margin).sum()))
    return min(rank, cut.max_rank, k), rank <= min(cut.max_rank, k)


def _enough(state: _State, cut: Cut, most: int) -> bool:
    """The tolerance is met, and not at the edge of the basis where Ritz values are poor."""
    k = state.q.shape[1]
    if k >= most or cut.tail2 is None:
        return True
    return state.fits and state.rank <= k - oversampling(state.rank) // 2


def _gains(a: Tensor, second: Tensor | None, state: _State, cut: Cut) -> bool:
    """Whether a power step is worth while: it gains energy that counts, or a rank."""
    k, r = state.q.shape[1], state.rank
    if k >= a.shape[0]:
        return False
    kept = state.s2[:r]
    weight = (kept / (kept - state.s2[-1]).clamp_min(0.05 * kept).clamp_min(1e-300)).sqrt()
    mix = state.u[:, :r] * (weight / _safe_root(kept))
    gain = None if second is None else _gain_seen(second, state.q, state.q, mix, state.lost)
    if gain is None:
        gain = _gain(a, state.q, mix, state.b, cut.gen)
    if gain <= 4 * residual_noise2(a.dtype, cut.norm2):
        return False
    if cut.tail2 is None or not state.fits:
        return gain > _GAIN * state.lost
    return r > 1 and gain > _GAIN * cut.tail2 and state.lost + float(state.s2[r - 1]) - 2 * gain <= cut.tail2


def _safe_root(s2: Tensor) -> Tensor:
    """Singular values to divide by."""
    return s2.clamp_min(s2[0] * 1e-28 + 1e-300).sqrt()


def _gain(a: Tensor, q: Tensor, mix: Tensor, b: Tensor, gen: torch.Generator) -> float:
    """Energy of a @ bᴴ mix outside the basis q, estimated from random combinations; one read of `a`."""
    g = normal((mix.shape[1], _PROBES), mix, gen)
    out = apply_rows(a, (mix @ g).mH.to(a.dtype) @ b)
    for _ in range(2):
        out = out - q @ (q.mH @ out)
    return energy(out) / _PROBES


def _gain_seen(second: Tensor, q: Tensor, basis: Tensor, mix: Tensor, lost2: float) -> float | None:
    """The same for b = basisᴴ a from a sketch of `a` that neither q nor the basis was made from; reads only that.

    For a sketch a Ω, a Ω Ωᴴ bᴴ mix has the expectation a bᴴ mix. The energy of its noise outside q is the energy there
    (at most lost2) times that of mixᴴ b Ω over the number of buckets, and is taken off. None where a few columns of
    `a` hold most of that: the noise is then not as even as this takes it to be.
    """
    inside = project(basis @ mix.to(basis.dtype), second)
    each = row_energies(inside.mH)
    if float(each.square().sum()) * each.shape[0] > _UNEVEN * float(each.sum()) ** 2:
        return None
    out = apply_rows(second, inside)
    for _ in range(2):
        out = out - q @ (q.mH @ out)
    outside = min(lost2, max(energy(second) - energy(project(q, second)), 0.0))
    return max(energy(out) - outside * float(each.sum()) / second.shape[1], 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class SketchedRange:
    """Leading left directions of a wide matrix, seen in a sketch of it.

    Attributes:
        q: (m, k) orthonormal, k somewhat above the rank.
        weighted: (m, r), the leading directions times their singular values.
        second: a sketch of which these know nothing; None where no check was asked for.
    """

    q: Tensor
    weighted: Tensor
    second: Tensor | None

    def suffices(
        self, a: Tensor, basis: Tensor, b: Tensor, s2: Tensor, u: Tensor, lost2: float, gen: torch.Generator
    ) -> bool:
        """Whether a power step would gain little.

        Args:
            a: the matrix; read only where the second sketch cannot tell.
            basis: (m, r) orthonormal, made from `weighted`.
            b: basisᴴ a.
            s2: eigenvalues of basisᴴ a aᴴ basis, descending, float64.
            u: its eigenvectors.
            lost2: what the basis discards.
            gen: random numbers.
        """
        mix = u / _safe_root(s2)
        gain = None if self.second is None else _gain_seen(self.second, self.q, basis, mix, lost2)
        if gain is None:
            gain = _gain(a, self.q, mix, b, gen)
        return gain <= max(_GAIN * lost2, 4 * residual_noise2(basis.dtype, float(s2.sum())))


def sketch_suffices(long: float, short: int, rank: int) -> bool:
    """Whether a sketch of a matrix with these sides can show the leading directions on its short side."""
    return long >= 12 * short and rank + oversampling(rank) <= 0.5 * short


def sketched_range(
    a: Tensor, rank: int, norm2: float, gen: torch.Generator, *, checked: bool = True
) -> SketchedRange | None:
    """The range of a wide matrix from one read; None where a sketch would be too small to show it.

    Args:
        a: (m, n), any strides.
        rank: how many directions are wanted.
        norm2: ‖a‖².
        gen: random numbers.
        checked: whether `SketchedRange.suffices` will be asked.

    Example:
        >>> a = torch.outer(torch.arange(4.0), torch.ones(40_000))
        >>> found = sketched_range(a, 1, float(a.norm()) ** 2, torch.Generator().manual_seed(0))
        >>> found is None or abs(float(found.weighted.norm()) - float(a.norm())) < 1e-2 * float(a.norm())
        True
    """
    m, n = a.shape
    if not sketch_suffices(n, m, rank):
        return None
    cut = Cut(rank, None, norm2, gen)
    return _seen(_Finder(a, cut, min(m, rank + oversampling(rank)), twins=checked), cut)


def _seen(finder: _Finder, cut: Cut) -> SketchedRange | None:
    """What the sketch shows of the leading directions."""
    sketch = finder.sketch
    if sketch is None:
        return None
    rank = cut.max_rank
    q = _leading(sketch, min(sketch.shape[0], rank + oversampling(rank)), cut)
    s2, u = torch.linalg.eigh(cross(project(q, sketch)))
    leading = u.flip(1)[:, :rank] * s2.flip(0)[:rank].clamp_min(0).sqrt()
    return SketchedRange(q, q @ leading.to(q.dtype), finder.second)


def _straight(a: Tensor, seen: SketchedRange, cut: Cut) -> Split | None:
    """The split on the directions that a sketch shows, without more of them; None where that is not good enough."""
    basis = torch.linalg.qr(seen.weighted).Q
    b, inner = project_with_gram(basis, a)
    lost = certify(a, basis, b, inner, cut.norm2)
    if lost < 1000 * torch.finfo(torch.float64).eps * cut.norm2:  # the Gram of b does not resolve what is kept
        return None
    s2, u = torch.linalg.eigh(inner)
    s2, u = s2.flip(0).clamp_min(0), u.flip(1)
    if not seen.suffices(a, basis, b, s2, u, lost, cut.gen):
        return None
    certain = lost >= 64 * residual_noise2(a.dtype, cut.norm2)
    return Split(basis, b, s2, lost, certain, "randomised")  # in the order that the sketch shows: nearly that of s2


def _rotate_(b: Tensor, u: Tensor) -> Tensor:
    """Overwrite the first rows of b by uᴴ b, block by block; returns them."""
    left = u.mH.to(b.dtype)
    rows = left.shape[0]
    for j in range(0, b.shape[1], 8192):
        b[:rows, j : j + 8192] = left @ b[:, j : j + 8192]
    return b[:rows]


def _finish(a: Tensor, state: _State, cut: Cut) -> Split:
    u = state.u[:, : state.rank]
    lost = state.lost
    rest = _rotate_(state.b, u)
    if 2 * rest.shape[0] < state.b.shape[0]:
        rest = rest.clone()
    certain = lost >= 64 * residual_noise2(a.dtype, cut.norm2)
    return Split(state.q @ u.to(a.dtype), rest, state.s2, lost, certain, "randomised")


class _Finder:
    """Leading directions of the column space of `a`, from sketches that are made once."""

    def __init__(self, a: Tensor, cut: Cut, columns: int | None, *, twins: bool = True) -> None:
        self.a, self.cut, self.known = a, cut, columns
        short, long = a.shape
        wished = _BUCKETS * cut.max_rank if columns is not None else max(long // 16, 2 * short)
        width = min(max(wished, 512), long // 6)
        least = 8 * columns if columns is not None else 2 * short
        #: so few buckets that a power step will be worth while
        self.poor = cut.tail2 is None and width < _POOR * cut.max_rank
        #: of the rows instead: a product with the directions that it shows is half of a power step
        self.stepped = self.poor and columns is not None and min(width, short // 6) >= least
        self.sketch: Tensor | None = None
        self.second: Tensor | None = None
        if self.stepped:
            self.sketch = count_sketch(a.mT, min(width, short // 6), cut.gen)
        elif width >= least and twins and _TWINS * width <= long:
            self.sketch, self.second = twin_sketches(a, width, cut.gen)
        elif width >= least:
            self.sketch = count_sketch(a, width, cut.gen)
        self.vectors: Tensor | None = None

    def columns(self, limit: int) -> int | None:
        """With how many columns to start; None if the sketch says that it would be more than `limit`."""
        if self.known is not None:
            return self.known
        assert self.cut.tail2 is not None
        if self.sketch is None or min(self.sketch.shape) > 2 * _SMALL:
            guess = 32
        else:
            s2, self.vectors = _eigen(self.sketch)
            tail = tails(s2)
            share = self.cut.norm2 / max(float(tail[0]), 1e-300)
            least = 100 * gram_noise2(self.a.dtype, self.cut.norm2, precise=True)  # of the sketch; the rest grows later
            guess = int((tail * share > max(0.9 * self.cut.tail2, least)).sum())
        guess = min(guess + oversampling(guess), self.cut.max_rank + oversampling(self.cut.max_rank))
        return guess if guess <= limit else None

    def start(self, k: int) -> Tensor:
        """A first basis (m, k)."""
        if self.sketch is None:
            return orthonormal(apply_rows(self.a, self.gaussian(k, self.a.shape[1])))
        if self.vectors is not None:
            return self.vectors[:, :k].to(self.a.dtype)
        found = _leading(self.sketch, k, self.cut, rounds=1 if self.poor else 3)
        return orthonormal(apply_rows(self.a, found.mT)) if self.stepped else found

    def more(self, state: _State, k: int) -> Tensor:
        """Further directions (m, k), orthogonal to the basis."""
        q = state.q
        if self.sketch is not None:
            outside = self.sketch - q @ (q.mH @ self.sketch)
            found = _leading(outside, k, self.cut)
        else:
            omega = self.gaussian(k, self.a.shape[1])
            found = apply_rows(self.a, omega) - q @ (state.b @ omega.mH)
        for _ in range(2):
            found = orthonormal(found - q @ (q.mH @ found))
        return found

    def gaussian(self, k: int, n: int) -> Tensor:
        return normal((k, n), self.a, self.cut.gen)


def _eigen(y: Tensor) -> tuple[Tensor, Tensor]:
    """Squared singular values and left singular vectors of a small sketch, through the Gram matrix of its rows."""
    return gram_eigen(y, 0.0, precise=True)[:2]


def _leading(y: Tensor, k: int, cut: Cut, rounds: int = 3) -> Tensor:
    """The leading left singular subspace (m, k) of a sketch y (m, l)."""
    m = y.shape[0]
    if m <= _SMALL and (6 * k > m or m <= 96):
        return _eigen(y)[1][:, :k].to(y.dtype)
    if m <= _SMALL:
        g = gram(y, precise=True)
        q = orthonormal(g @ normal((m, k), g, cut.gen))
        for _ in range(3):
            q = orthonormal(g @ (g @ q))
        return q.to(y.dtype)
    q = orthonormal(apply_rows(y, normal((k, y.shape[1]), y, cut.gen)))
    for _ in range(rounds):
        rows = orthonormal(project(q, y).mH).mH
        q = orthonormal(apply_rows(y, rows))
    return q


SPLIT_DRIVERS.register("randomised", randomised_split)
