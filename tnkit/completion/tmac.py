"""TMac: low-rank factors of all unfoldings at once, with ranks that grow where the fit has settled.

    min Σ_n α_n/2 ‖Z_(n) − X_n Y_n‖²   with Z = M on the observed entries.

A round, one unfolding after the other: X ← Z_(n) Yᵀ, Y ← (XᵀX)† Xᵀ Z_(n); then Z = Σ_n α_n fold(X_n Y_n) where nothing
is known, and α_n ∝ 1/‖P_Ω(fold(X_n Y_n) − M)‖². Where the residual of an unfolding changes by less than a hundredth,
its rank grows by one with a random row for Y that is orthogonal to the others (the rank-increasing strategy).

Reference: Xu, Hao, Yin, Su 2015, "Parallel matrix factorization for low-rank tensor completion",
doi:10.3934/ipi.2015.9.601.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.convex import checked, compare_and_fit
from tnkit.errors import OptionError
from tnkit.rng import generator, normal

__all__ = ["TMac"]


@register
@dataclass(frozen=True, slots=True)
class TMac(CompletionMethod):
    """Low-rank factors of all unfoldings; real arrays of two and more modes. It gives a dense array and no format.

    Attributes:
        max_ranks: the ranks of the unfoldings grow up to these, in turn compared on held-out entries.
        start: the first rank of every unfolding.
        settled: a rank grows where the residual changes by less than this share.
        tol: a run ends when a round changes the array by less than this share.
        max_steps: rounds of a run.
        holdout: share of the observed entries held out for the comparison, then given back; 0: the first is taken.

    Raises:
        OptionError: ranks below 1, tol <= 0, or a share outside 0 … 1.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> x = np.fromfunction(lambda i, j, k: 1.0 + i * j + k, (14, 14, 14))
        >>> mask = np.random.default_rng(0).random(x.shape) < 0.5
        >>> done = complete(x, mask=mask, method=TMac(max_ranks=(3,)))
        >>> bool(np.linalg.norm(done.filled - x) < 1e-2 * np.linalg.norm(x))
        True
    """

    max_ranks: tuple[int, ...] = (2, 4, 8, 16)
    start: int = 1
    settled: float = 1e-2
    tol: float = 1e-5
    max_steps: int = 500
    holdout: float = 0.1
    name: ClassVar[str] = "tmac"
    formats: ClassVar[bool] = False
    weights: ClassVar[bool] = False
    summary: ClassVar[str] = "low-rank factors of all unfoldings in parallel, ranks that grow"

    def __post_init__(self) -> None:
        if not self.max_ranks or min(self.start, self.max_steps, *self.max_ranks) < 1:
            raise OptionError(f"{self!r}: start, max_steps and one or more max_ranks must be 1 or more.")
        if not (self.tol > 0 and self.settled > 0 and 0 <= self.holdout < 1):
            raise OptionError(f"{self!r}: tol and settled must be above 0, holdout at least 0 and below 1.")

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            ShapeError: fewer than 2 modes.
        """
        checked(problem.observations, self.name)
        makers = {str(r): partial(_Factors, method=self, most=r) for r in self.max_ranks}
        return compare_and_fit(problem, makers, holdout=self.holdout, tol=self.tol, max_steps=self.max_steps)


class _State(NamedTuple):
    """z: the array. y: the right factor of each unfolding. weights: α. residuals: of each unfolding."""

    z: Tensor
    y: tuple[Tensor, ...]
    weights: tuple[float, ...]
    residuals: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Factors:
    """m: observed values, 0 elsewhere. seen: where observed."""

    m: Tensor
    seen: Tensor
    method: TMac
    most: int

    def start(self) -> _State:
        """Missing entries at the mean, random factors."""
        d, gen = self.m.ndim, generator(0, self.m.device)
        z = torch.where(self.seen, self.m, self.m.sum() / self.seen.sum())
        y = []
        for n in range(d):
            wide = _unfold(z, n)
            y.append(normal((min(self.method.start, self.most, *wide.shape), wide.shape[1]), z, gen))
        return _State(z, tuple(y), (1 / d,) * d, (float("inf"),) * d)

    def step(self, s: _State, number: int) -> tuple[_State, float]:
        """One round."""
        ys, parts, residuals, grew = [], [], [], False
        for n, y in enumerate(s.y):
            wide = _unfold(s.z, n)
            basis = torch.linalg.qr(wide @ y.mT)[0]  # X (XᵀX)⁻¹ Xᵀ depends on its range alone
            y = basis.mT @ wide
            part = _fold(basis @ y, n, s.z.shape)
            residual = float((part - self.m)[self.seen].norm())
            settled = abs(residual - s.residuals[n]) <= self.method.settled * max(s.residuals[n], 1e-30)
            if settled and y.shape[0] < min(self.most, *wide.shape):
                y, grew = torch.cat([y, self.fresh(y, number)]), True
            ys.append(y)
            parts.append(part)
            residuals.append(residual)
        inverse = [1 / max(r * r, 1e-20) for r in residuals]
        weights = tuple(i / sum(inverse) for i in inverse)
        mixed = sum((w * p for w, p in zip(weights, parts, strict=True)), torch.zeros_like(s.z))
        z = torch.where(self.seen, self.m, mixed)
        change = float((z - s.z).norm() / z.norm().clamp_min(1e-30))
        return _State(z, tuple(ys), weights, tuple(residuals)), max(change, 1.0) if grew else change

    def fresh(self, y: Tensor, number: int) -> Tensor:
        """A random row that is orthogonal to those of y, of their mean length."""
        row = normal((1, y.shape[1]), y, generator(number, y.device))
        basis = torch.linalg.qr(y.mT)[0]
        row = row - (row @ basis) @ basis.mT
        found: Tensor = row * (y.norm() / y.shape[0] ** 0.5 / row.norm().clamp_min(1e-30))
        return found

    def dense(self, state: _State) -> Tensor:
        """The array."""
        return state.z


def _unfold(t: Tensor, mode: int) -> Tensor:
    return t.movedim(mode, 0).flatten(1)


def _fold(flat: Tensor, mode: int, shape: torch.Size) -> Tensor:
    rest = [n for k, n in enumerate(shape) if k != mode]
    return flat.reshape(shape[mode], *rest).movedim(0, mode)
