"""BLAST matrices: preconditioned gradient descent, then alternating least squares.

W_ij ≈ U_i diag(s_ij) V_jᵀ for blocks i, j. The gradient of each factor is multiplied by the inverse of its own normal
matrix, damped by δ = δ₀ √loss, with a step that falls from 1 to 0 (Lee et al. 2024, arXiv:2410.21262, algorithm 2).
That finds better minima than alternating least squares, which then takes over. A truncated SVD of the whole matrix is
a BLAST matrix with s = 1 and is among the starts, so the result is never worse than low rank at the same r.

Example:
    >>> import torch, tnkit as tk
    >>> x = tk.random_format(tk.BLASTSpec((2, 2)), (12, 12), 3, rng=0).to_dense()
    >>> tk.decompose(x, tk.BLASTSpec((2, 2)), rank=3, method="blast").rel_error < 0.05
    True
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isinf
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.als import least_squares
from tnkit.decompose.base import Problem
from tnkit.decompose.descent import Trial, descend, descend_from
from tnkit.decompose.options import check_options
from tnkit.decompose.rank_search import RankSearch, measured, newton_limit, steps_of
from tnkit.linalg import solve_gram, split
from tnkit.registry import METHODS
from tnkit.rng import normal
from tnkit.solvers import DIRECT, INTERRUPTED, Control, iterate

__all__ = ["BlastFit"]


@dataclass(frozen=True, slots=True)
class BlastFit(RankSearch):
    """Preconditioned descent from small random factors and from the SVD, polished by alternating least squares.

    Attributes:
        descent_steps: steps of the descent (300 in the paper).
        max_steps: sweeps (or Gauss–Newton steps) after it.
        tol: stop when the error falls by less than this, relative to itself, over five steps.
        starts: how many random starts.
        damping: δ₀.
    """

    descent_steps: int = 100
    max_steps: int = 100
    tol: float = 1e-4
    starts: int = 2
    damping: float = 0.1
    name: ClassVar[str] = "blast"
    formats: ClassVar[tuple[str, ...]] = ("blast",)
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "preconditioned gradient descent for BLAST matrices, then alternating least squares"

    def __post_init__(self) -> None:
        """Refuse numbers out of range.

        Raises:
            OptionError: one is.
        """
        check_options(self, least_starts=0)

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
        control = steps_of(problem, max_steps=self.max_steps, tol=self.tol, goal=goal, quick=quick)
        network, newton = least_squares(problem), newton_limit(goal, quick=quick)
        if start is not None:
            return descend(network, start, control, newton=newton)
        flat = low_rank(problem, ranks[0])
        steps = min(self.descent_steps, 40) if quick else self.descent_steps
        count = min(self.starts, 1) if quick else self.starts
        lower = measured(problem, flat)
        pool: list[tuple[Tensor, ...]] = []
        for k in range(count + 1):
            first = flat if k == 0 else self._small(problem, ranks[0])
            walk = replace(control, max_steps=steps, tol=0.0).within(_share(control, count + 1 - k))
            walked = self._walk(problem, first, walk)
            pool.append(walked.tensors)
            if walked.status is INTERRUPTED:
                best = min([flat, *pool], key=lambda tensors: measured(problem, tensors))
                return replace(walked, error=measured(problem, best), tensors=best)
        trial = descend_from(network, pool, control, newton=newton)
        return trial if trial.error <= lower else replace(trial, tensors=flat, error=lower)

    def _small(self, problem: Problem, rank: int) -> tuple[Tensor, ...]:
        """Small random factors with couplings in (0, 1), as in the paper, scaled to the matrix."""
        x = problem.x
        i, a, j, b = x.shape
        scale = 0.1 * (problem.norm / (x.numel() * rank) ** 0.5) ** 0.5
        left, right = normal((i, a, rank), x, problem.rng) * scale, normal((j, b, rank), x, problem.rng) * scale
        coupling = torch.rand((i, j, rank), generator=problem.rng, device=problem.rng.device, dtype=x.real.dtype)
        return left, coupling.to(device=x.device, dtype=x.dtype), right

    def _walk(self, problem: Problem, start: Sequence[Tensor], control: Control) -> Trial:
        """The preconditioned descent."""
        x, norm, steps, begun = problem.x, problem.norm, control.max_steps, time.monotonic()
        limit = control.deadline - begun

        def step(state: tuple[Tensor, ...], number: int) -> tuple[tuple[Tensor, ...], float]:
            u, s, v, rest = state
            pace = 1.0 - max((number - 1) / steps, min((time.monotonic() - begun) / limit, 1.0) if limit > 0 else 1.0)
            error = float(torch.linalg.vector_norm(rest)) / norm
            # a normal matrix has a trace of about the squared norm of what it stands for; δ is a share of its mean
            delta = self.damping * error
            t = torch.einsum("ijr,jbr->ijbr", s, v).flatten(1, 2)
            u = u + pace * _solved(t, rest.flatten(2), delta)
            rest = _rest(x, u, s, v)
            t = torch.einsum("ijr,iar->jiar", s, u).flatten(1, 2)
            v = v + pace * _solved(t, rest.permute(2, 3, 0, 1).flatten(2), delta)
            rest = _rest(x, u, s, v)
            gram = (u.mH @ u)[:, None] * (v.mH @ v)[None]
            side = torch.einsum("iar,iajb,jbr->ijr", u.conj(), rest, v.conj())
            s = s + pace * _damped(gram, side[..., None], delta)[..., 0]
            rest = _rest(x, u, s, v)
            return (u, s, v, rest), float(torch.linalg.vector_norm(rest)) / norm

        out = iterate(step, (*start, _rest(x, *start)), control, start_error=measured(problem, start))
        return Trial(out.value[:3], out.error, out.status, out.history)

    def direct(self, problem: Problem) -> Trial | None:
        """Low rank: exact at the smaller side of the matrix, and an answer to any eps."""
        target, most = problem.target, problem.max_ranks[0]
        if target.eps is None and most < problem.layout.caps[0]:
            return None
        if target.max_params is not None:
            most = min(most, target.max_params // max(1, problem.layout.n_params((1,))))
        if most < 1:
            return None
        tensors = low_rank(problem, most, exact=target.eps is None)
        return Trial(tensors, measured(problem, tensors), DIRECT)


def _share(control: Control, left: int) -> float | None:
    """Seconds for the next of the walks that are left; as long as all of them is for what comes after."""
    return None if isinf(control.deadline) else max(control.deadline - time.monotonic(), 0.0) / (2.0 * left)


def low_rank(problem: Problem, rank: int, *, exact: bool = True) -> tuple[Tensor, ...]:
    """The truncated SVD as a BLAST matrix with couplings of one; without `exact` the smallest rank that reaches eps."""
    i, a, j, b = problem.x.shape
    matrix = problem.x.reshape(i * a, j * b)
    tail2 = None if exact else problem.error2_allowed
    part = split(matrix, max_rank=min(rank, *matrix.shape), tail2=tail2, norm2=problem.norm**2, rng=problem.rng)
    scale = torch.linalg.vector_norm(part.rest, dim=1).sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    left, right = part.basis * scale, part.rest / scale[:, None]
    short = rank - part.rank if exact else 0
    left = torch.cat([left, left.new_zeros((i * a, short))], dim=1)
    right = torch.cat([right, right.new_zeros((short, j * b))])
    r = left.shape[1]
    return left.reshape(i, a, r), left.new_ones((i, j, r)), right.mT.reshape(j, b, r).contiguous()


def _rest(x: Tensor, u: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """X − x̂, (i, a, j, b)."""
    t = torch.einsum("ijr,jbr->ijbr", s, v).flatten(1, 2)
    return x - torch.bmm(u, t.mT).reshape(x.shape)


def _solved(t: Tensor, rest: Tensor, delta: float) -> Tensor:
    """(rest t̄) (tᵀt̄ + δ)⁻¹ for each block: (k, m, r) from t (k, n, r) and rest (k, m, n)."""
    gram = t.mH @ t
    return _damped(gram, (rest @ t.conj()).mT, delta).mT


def _damped(gram: Tensor, side: Tensor, delta: float) -> Tensor:
    share = gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)
    least = 8 * torch.finfo(gram.dtype).eps
    return solve_gram(gram, side, (max(delta, least) * share).clamp_min(torch.finfo(gram.dtype).tiny))


METHODS.register(BlastFit.name, BlastFit)
