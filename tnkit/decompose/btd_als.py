"""Block terms: a sum of Tucker terms of equal ranks, by alternating least squares.

Starts: Tucker terms peeled off one after the other (each the truncated HOSVD of what the ones before leave), and
random ones. One term of full ranks holds everything, so those ranks are exact, and a Tucker decomposition at some eps
is a first answer to that eps.

Example:
    >>> import torch, tnkit as tk
    >>> x = tk.random_format(tk.BTDSpec(terms=2), (6, 7, 8), 2, rng=1).to_dense()
    >>> tk.decompose(x, tk.BTDSpec(terms=2), rank=2, method="btd_als").rel_error < 1e-6
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.als import fit_network, random_starts
from tnkit.decompose.base import Problem
from tnkit.decompose.compressed import fit_compressed
from tnkit.decompose.descent import NEWTON_MOST, Start, Trial, descend, ended, joined
from tnkit.decompose.options import Restarted
from tnkit.decompose.rank_search import direct_fit, measured, newton_limit
from tnkit.decompose.term_sweep import TermSweeps, hosvd, with_empty_terms
from tnkit.formats import Tucker, TuckerSpec
from tnkit.registry import METHODS
from tnkit.solvers import DIRECT, Control

__all__ = ["BTDALS"]

#: Cores of more entries in all terms are updated term by term; the joint normal matrix would be too large.
JOINT_CORE = 900


@dataclass(frozen=True, slots=True)
class BTDALS(Restarted):
    """Alternating least squares for block terms; Gauss–Newton steps where the problem is small, several starts.

    Small cores are updated jointly over all terms, large ones term by term (each term a step of HOOI on what the others
    leave; De Lathauwer & Nion, doi:10.1137/070690730).

    Attributes:
        max_steps: sweeps (or steps) for each start, those on a compressed array and of its first heat included.
        tol: stop when the error falls by less than this, relative to itself, over five steps.
        starts: how many starts there are in all.
        ridge: pull towards the old value, as a share of the mean eigenvalue of a normal matrix.
    """

    starts: int = 8
    ridge: float = 0.0
    name: ClassVar[str] = "btd_als"
    formats: ClassVar[tuple[str, ...]] = ("btd",)
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "alternating least squares for block terms, from peeled Tucker terms and random starts"

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
        control = self.control(problem, goal, quick=quick)
        if terms_of(problem) * prod(ranks) > JOINT_CORE:

            def solve(small: Problem, inside: Sequence[Tensor] | None, limits: Control) -> Trial:
                sweeps, first = TermSweeps(small.x, small.norm), peeled(small, ranks) if inside is None else inside
                return descend(sweeps, first, limits, newton=0, extrapolate=False)

            def polish(rough: Trial, limits: Control) -> Trial:
                left = limits.max_steps - len(rough.history)
                return (
                    rough
                    if quick or left < 1
                    else joined(rough, solve(problem, rough.tensors, replace(limits, max_steps=left)))
                )

            control = replace(control, target=goal)
            found = fit_compressed(problem, ranks, start, control, solve, polish)
            return solve(problem, start, control) if found is None else found
        return fit_network(
            problem,
            ranks,
            start,
            goal,
            starts=lambda small: self._starts(small, ranks),
            count=self.starts,
            control=control,
            ridge=self.ridge,
            newton=newton_limit(goal, quick=quick),
            quick=quick,
        )

    def _starts(self, problem: Problem, ranks: tuple[int, ...]) -> list[Start]:
        """Random ones first if they are cheap: a peeled start is near a saddle, where terms share their subspaces."""
        cheap = problem.layout.n_params(ranks) <= NEWTON_MOST
        return [*random_starts(problem, ranks, 2 if cheap else 0), lambda: peeled(problem, ranks)]

    def direct(self, problem: Problem) -> Trial | None:
        """One term of a Tucker decomposition and empty others: exact at full ranks, and an answer to any eps."""
        layout, target = problem.layout, problem.target
        if target.eps is None and any(r < c for r, c in zip(problem.max_ranks, layout.caps, strict=True)):
            return None
        plain = replace(TuckerSpec().layout(layout.inner_shape), format=Tucker)
        size = None if target.max_params is None else target.max_params // terms_of(problem)
        asked = replace(problem, layout=plain, spec=TuckerSpec(), target=replace(target, max_params=size))
        if target.eps is None:
            core, *factors = hosvd(problem.x, layout.caps, problem.rng)
        else:
            found = direct_fit(asked, ("st_hosvd",))
            if found is None or ended(found.status):
                return None
            core, *factors = found.tensors
        tensors = with_empty_terms((core, *factors), terms_of(problem), problem.rng)
        return Trial(tensors, measured(problem, tensors), DIRECT)


def terms_of(problem: Problem) -> int:
    """How many terms the layout has."""
    return problem.layout.sizes["t"]


def peeled(problem: Problem, ranks: Sequence[int]) -> tuple[Tensor, ...]:
    """Tucker terms, each of what the ones before leave."""
    rest, terms = problem.x, list[tuple[Tensor, ...]]()
    for _ in range(terms_of(problem)):
        term = hosvd(rest, ranks, problem.rng)
        terms.append(term)
        dense = term[0]
        for k, factor in enumerate(term[1:]):
            dense = torch.tensordot(factor, dense, dims=([1], [k])).movedim(0, k)
        rest = rest - dense
    return tuple(torch.stack(parts) for parts in zip(*terms, strict=True))


METHODS.register(BTDALS.name, BTDALS)
