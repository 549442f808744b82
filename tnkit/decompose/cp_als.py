"""CP by alternating least squares: two passes a sweep, good starts, and what a direct method can do exactly.

Example:
    >>> import torch, tnkit as tk
    >>> x = tk.random_format("cp", (8, 9, 10), 4, rng=0).to_dense()
    >>> tk.decompose(x, "cp", rank=4, method="cp_als").rel_error < 1e-9
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.base import Problem
from tnkit.decompose.compressed import fit_compressed
from tnkit.decompose.cp_blocks import MANY, fit_blocks
from tnkit.decompose.cp_starts import eigen_start, random_start, svd_start
from tnkit.decompose.descent import Trial, descend, descend_from, go_on
from tnkit.decompose.mttkrp import CPLeastSquares, balanced, normalised
from tnkit.decompose.options import Restarted
from tnkit.decompose.rank_search import measured, newton_limit
from tnkit.linalg import rank_for_tail, split
from tnkit.registry import METHODS
from tnkit.solvers import DIRECT, Control

__all__ = ["CPALS"]


@dataclass(frozen=True, slots=True)
class CPALS(Restarted):
    """Alternating least squares for CP, with extrapolated sweeps and Gauss–Newton steps where the problem is small.

    Matrices (at most two modes above 1) and ranks of dense size over the largest mode are done directly. A large array
    is fitted in the leading basis of its modes first, from several starts, and the result is then polished on the array
    itself (Bro & Andersson, doi:10.1016/S0169-7439(98)00011-2). Ranks above 2,048 are fitted a block of terms at a
    time, from one random start (`tnkit.decompose.cp_blocks`).

    Attributes:
        max_steps: sweeps (or steps) for each start, those on a compressed array and of its first heat included.
        tol: stop when the error falls by less than this, relative to itself, over five steps.
        starts: random starts beside those from eigenvalues and from singular vectors.
        start: "auto" (all of them), "eigen", "svd" or "random".
        ridge: pull towards the old factor, as a share of the mean eigenvalue of its normal matrix.
        compress: whether large arrays are fitted in a Tucker basis first.

    References:
        Kolda & Bader, doi:10.1137/07070111X; Ang et al., doi:10.1137/19M1288395 (extrapolation).
    """

    start: str = "auto"
    ridge: float = 0.0
    compress: bool = True
    kinds_of_start: ClassVar[tuple[str, ...]] = ("auto", "eigen", "svd", "random")
    least_starts: ClassVar[int] = 0
    name: ClassVar[str] = "cp_als"
    formats: ClassVar[tuple[str, ...]] = ("cp",)
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "alternating least squares for CP: two passes over the data a sweep, several starts"

    def solve(
        self,
        problem: Problem,
        ranks: tuple[int, ...],
        start: Sequence[Tensor] | None,
        goal: float | None,
        *,
        quick: bool = False,
    ) -> Trial:
        """See `RankSearch.solve`."""
        x = problem.x
        if ranks[0] >= x.numel() // max(x.shape):
            tensors = all_terms(x) if goal is None else largest_terms(x, (goal * problem.norm) ** 2)
            return Trial(tensors, measured(problem, tensors), DIRECT)
        control = self.control(problem, goal, quick=quick)
        if start is not None:
            weights, first, *others = start
            start = (torch.ones_like(weights), first * weights, *others)  # new terms: zero in the first factor alone
        if ranks[0] > MANY:
            best = fit_blocks(x, problem.norm, start or ranks[0], control, problem.rng, ridge=self.ridge)
        else:
            best = self._fit(problem, ranks[0], start, control, quick=quick)
        weights, *factors = best.tensors
        tensors = normalised((factors[0] * weights, *factors[1:]))
        order = torch.argsort(tensors[0].abs(), descending=True, stable=True)
        return replace(best, tensors=(tensors[0][order], *(f[:, order].contiguous() for f in tensors[1:])))

    def _fit(
        self, problem: Problem, rank: int, start: Sequence[Tensor] | None, control: Control, *, quick: bool
    ) -> Trial:
        newton = newton_limit(control.target, quick=quick)

        def solve(small: Problem, inside: Sequence[Tensor] | None, limits: Control) -> Trial:
            terms = CPLeastSquares(small.x, small.norm)
            if inside is not None:
                return descend(terms, inside, limits, ridge=self.ridge, newton=newton)
            own = self._starts(small.x, small.norm, rank, small.rng, min(4, self.starts) if quick else self.starts)
            return descend_from(terms, own, limits, ridge=self.ridge, newton=newton)

        def polish(rough: Trial, limits: Control) -> Trial:
            return go_on(CPLeastSquares(problem.x, problem.norm), rough, limits, ridge=self.ridge, newton=newton)

        found = fit_compressed(problem, (rank,), start, control, solve, polish) if self.compress else None
        return solve(problem, start, control) if found is None else found

    def _starts(self, x: Tensor, norm: float, rank: int, rng: torch.Generator, count: int) -> list[Sequence[Tensor]]:
        found: list[Sequence[Tensor]] = []
        if self.start in ("auto", "eigen"):
            eigen = eigen_start(x, rank, norm, rng)
            found += [] if eigen is None else [balanced(eigen[1:])]
        if self.start in ("auto", "svd"):
            found.append(balanced(svd_start(x, rank, norm, rng)[1:]))
        if self.start in ("auto", "random") or not found:
            found += [random_start(x, rank, norm, rng) for _ in range(max(1, count))]
        return found

    def direct(self, problem: Problem) -> Trial | None:
        """Matrices by their SVD; everything at the largest rank, one term for each entry beside the largest mode."""
        x, target = problem.x, problem.target
        most = problem.max_ranks[0]
        if target.max_params is not None:
            most = min(most, target.max_params // (1 + sum(x.shape)))
        if sum(n > 1 for n in x.shape) <= 2:
            tensors = matrix_terms(problem, most)
        elif most >= problem.layout.caps[0] and target.eps is None:
            tensors = all_terms(x)
        else:
            return None
        return Trial(tensors, measured(problem, tensors), DIRECT)


def matrix_terms(problem: Problem, most: int) -> tuple[Tensor, ...]:
    """The truncated SVD of an array with at most two modes above 1."""
    x = problem.x
    modes = [k for k, n in enumerate(x.shape) if n > 1]
    rows = modes[0] if modes else 0
    columns = modes[1] if len(modes) > 1 else None
    matrix = x.reshape(x.shape[rows], -1)
    part = split(
        matrix, max_rank=min(most, *matrix.shape), tail2=problem.error2_allowed, norm2=problem.norm**2, rng=problem.rng
    )
    short = 0 if problem.target.eps is not None else most - part.rank
    basis = torch.cat([part.basis, x.new_zeros((x.shape[rows], short))], dim=1)
    rest = torch.cat([part.rest, x.new_zeros((short, matrix.shape[1]))])
    ones = x.new_ones((1, basis.shape[1]))
    factors = [basis if k == rows else rest.mT if k == columns else ones for k in range(x.ndim)]
    if columns is None:
        factors[rows] = basis * rest[:, 0]
    return _sorted(factors)


def all_terms(x: Tensor) -> tuple[Tensor, ...]:
    """One term for each entry beside the largest mode: unit vectors there, and the fibre in the largest mode."""
    mode = max(range(x.ndim), key=lambda k: x.shape[k])
    fibres = x.movedim(mode, 0).reshape(x.shape[mode], -1)
    return _terms(x, mode, fibres, torch.arange(fibres.shape[1], device=x.device))


def largest_terms(x: Tensor, allowed: float) -> tuple[Tensor, ...]:
    """The largest fibres of the largest mode, as few as leave at most this energy."""
    mode = max(range(x.ndim), key=lambda k: x.shape[k])
    fibres = x.movedim(mode, 0).reshape(x.shape[mode], -1)
    energy = torch.linalg.vector_norm(fibres, dim=0).to(torch.float64).square()
    values, order = torch.sort(energy, descending=True, stable=True)
    count = rank_for_tail(values, allowed)
    return _terms(x, mode, fibres[:, order[:count]], order[:count])


def _terms(x: Tensor, mode: int, fibres: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    others = [n for k, n in enumerate(x.shape) if k != mode]
    factors, left = [], places
    for n in reversed(others):
        index = left % n
        factors.append(torch.zeros((n, len(places)), dtype=x.dtype, device=x.device).scatter_(0, index[None], 1.0))
        left = left.div(n, rounding_mode="floor")
    factors.reverse()
    factors.insert(mode, fibres.contiguous())
    return _sorted(factors)


def _sorted(factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    weights, *units = normalised(factors)
    order = torch.argsort(weights.abs(), descending=True, stable=True)
    return (weights[order], *(u[:, order].contiguous() for u in units))


METHODS.register(CPALS.name, CPALS)
