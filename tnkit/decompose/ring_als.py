"""Tensor ring by alternating least squares: started from ring SVDs, at random, and from a larger ring that is cut down.

Example:
    >>> import torch, tnkit as tk
    >>> x = tk.random_format("tr", (6, 6, 6, 6), 2, rng=0).to_dense()
    >>> tk.decompose(x, "tr", rank=2, method="ring_als").rel_error < 1e-9
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.als import fit_network, least_squares, random_starts
from tnkit.decompose.base import Problem, Target
from tnkit.decompose.descent import Start, Trial, descend
from tnkit.decompose.options import Restarted
from tnkit.decompose.rank_search import direct_fit, measured, newton_limit
from tnkit.decompose.resize import resized
from tnkit.decompose.tree_svd import tree_tensors
from tnkit.formats import Layout
from tnkit.linalg import split
from tnkit.registry import METHODS
from tnkit.solvers import DIRECT

__all__ = ["RingALS"]

#: Sweeps of the larger ring, before it is cut down.
WIDE_STEPS = 25


@dataclass(frozen=True, slots=True)
class RingALS(Restarted):
    """Alternating least squares for the tensor ring, with extrapolated sweeps and Gauss–Newton steps where it is small.

    A ring is a hard landscape: from one start in five the iteration ends in a poor minimum even if the array is a ring.
    So there are several starts, that of a ring SVD first; small problems go on until one is exact or three agree.

    Attributes:
        max_steps: sweeps (or steps) for each start, those on a compressed array and of its first heat included.
        tol: stop when the error falls by less than this, relative to itself, over five steps.
        starts: how many starts there are in all.
        start: "auto", "svd" (ring SVD only) or "random".
        ridge: pull towards the old core, as a share of the mean eigenvalue of its normal matrix.
        compress: whether large arrays are fitted in a Tucker basis first.

    References:
        Zhao et al., arXiv:1606.05535 (ring ALS); Mickelin & Karaman, arXiv:1807.02513 (ring SVD).
    """

    starts: int = 10
    start: str = "auto"
    ridge: float = 0.0
    compress: bool = True
    kinds_of_start: ClassVar[tuple[str, ...]] = ("auto", "svd", "random")
    name: ClassVar[str] = "ring_als"
    formats: ClassVar[tuple[str, ...]] = ("tr",)
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "alternating least squares for the tensor ring, from ring SVDs and random starts"

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
        large = problem.x.numel() > 2**21
        count = 1 if self.start == "svd" else min(self.starts, 3) if large else self.starts
        return fit_network(
            problem,
            ranks,
            start,
            goal,
            starts=lambda small: self._starts(small, ranks, quick=quick),
            count=count,
            control=self.control(problem, goal, quick=quick),
            ridge=self.ridge,
            newton=newton_limit(goal, quick=quick),
            quick=quick,
            compress=self.compress,
        )

    def _starts(self, problem: Problem, ranks: tuple[int, ...], *, quick: bool) -> list[Start]:
        found: list[Start] = []
        if self.start != "random":
            known = direct_fit(problem, ("ring_svd",), Target(ranks=ranks))
            if known is not None:
                found.append(
                    resized(problem.layout.topology, known.tensors, _bonds(problem.layout, ranks), problem.rng)
                )
        if self.start == "auto" and not quick:
            found += random_starts(problem, ranks, 2)
            found.append(lambda: self._cut_down(problem, ranks))
        return found

    def _cut_down(self, problem: Problem, ranks: tuple[int, ...]) -> Trial:
        """A ring of ranks one larger, fitted for some sweeps and cut down: a landscape with fewer poor minima."""
        wide = tuple(min(r + 1, cap) for r, cap in zip(ranks, problem.layout.caps, strict=True))
        start = next(iter(random_starts(problem, wide, 1)))
        steps = min(WIDE_STEPS, max(1, self.max_steps // 2))
        control = replace(problem.control, max_steps=steps, tol=1e-3, progress=None)
        trial = descend(least_squares(problem), start, control)
        cut = resized(problem.layout.topology, trial.tensors, _bonds(problem.layout, ranks), problem.rng)
        return replace(trial, tensors=tuple(cut), error=measured(problem, cut))

    def direct(self, problem: Problem) -> Trial | None:
        """A train where the ranks admit an exact one, one SVD for two modes, and ring SVD for an eps."""
        target, layout = problem.target, problem.layout
        if target.eps is not None:
            return direct_fit(problem, ("ring_svd",))
        ranks = train_ranks(layout, problem.max_ranks)
        found = None if ranks is None else tree_tensors(problem.x, layout, ranks, problem.rng, problem.norm)
        if found is None and problem.x.ndim == 2:
            found = two_cores(problem, problem.max_ranks)
        return None if found is None else Trial(found, measured(problem, found), DIRECT)

    def sized(self, problem: Problem) -> Trial | None:
        """The ring SVD of that size."""
        return direct_fit(problem, ("ring_svd",))


def _bonds(layout: Layout, ranks: Sequence[int]) -> dict[str, int]:
    return dict(zip(layout.bonds, ranks, strict=True))


def train_ranks(layout: Layout, limits: Sequence[int]) -> tuple[int, ...] | None:
    """The ranks of the smallest exact train within the limits, opened at any bond; None if there is none."""
    n, d = layout.inner_shape, len(layout.inner_shape)
    if d == 1:
        return ()
    found = []
    for opened in range(d):
        turned = n[opened:] + n[:opened]
        ranks = [1] * d
        for k in range(1, d):
            ranks[(opened + k) % d] = min(prod(turned[:k]), prod(turned[k:]))
        if all(r <= limit for r, limit in zip(ranks, limits, strict=True)):
            found.append(tuple(ranks))
    return min(found, key=layout.n_params) if found else None


def two_cores(problem: Problem, ranks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A ring of two modes is a matrix of rank r_0 r_1: its best approximation is a truncated SVD."""
    x, (first, second) = problem.x, ranks
    part = split(x, max_rank=min(first * second, *x.shape), norm2=problem.norm**2, rng=problem.rng)
    short = first * second - part.rank
    left = torch.cat([part.basis, x.new_zeros((x.shape[0], short))], dim=1)
    right = torch.cat([part.rest, x.new_zeros((short, x.shape[1]))])
    return (
        left.reshape(x.shape[0], first, second).permute(1, 0, 2).contiguous(),
        right.reshape(first, second, x.shape[1]).permute(1, 2, 0).contiguous(),
    )


METHODS.register(RingALS.name, RingALS)
