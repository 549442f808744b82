"""Alternating least squares for any topology: hyperedges, shared open labels, constant nodes, complex numbers.

Example:
    >>> import torch, tnkit as tk
    >>> x = tk.random_format("ab,bic,cja,kb->ijk", (5, 6, 7), 2, rng=0).to_dense()
    >>> fit = tk.decompose(x, "ab,bic,cja,kb->ijk", rank=2, method="als")
    >>> fit.rel_error < 1e-10
    True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from tnkit.decompose.base import Problem
from tnkit.decompose.compressed import fit_compressed
from tnkit.decompose.descent import Start, Trial, descend, descend_from, go_on, rounding_error
from tnkit.decompose.options import Restarted
from tnkit.decompose.rank_search import direct_fit, measured, newton_limit
from tnkit.decompose.resize import grown
from tnkit.decompose.sweep import LeastSquares
from tnkit.decompose.tree_svd import edges, fit_tree, is_tree, spanning_ranks, tree_tensors
from tnkit.formats import random_tensors
from tnkit.registry import METHODS
from tnkit.solvers import DIRECT, Control

__all__ = ["ALS", "exact_tree", "fit_network", "least_squares", "random_starts", "svd_starts"]

#: Direct methods whose result may be a start, by format.
DIRECT_METHODS = {
    "tt": ("tt_svd",),
    "ttm": ("tt_svd",),
    "tucker": ("st_hosvd",),
    "ht": ("ht_svd",),
    "tr": ("ring_svd",),
    "lowrank": ("matrix_svd",),
    "btt": ("matrix_svd",),
    "monarch": ("matrix_svd",),
    "kron": ("matrix_svd",),
    "tubal": ("tubal_svd",),
}


def least_squares(problem: Problem, *, orthogonal: bool = True) -> LeastSquares:
    """The least-squares problems of a decomposition."""
    return LeastSquares(problem.x, problem.layout.topology, problem.norm, orthogonal=orthogonal)


def random_starts(problem: Problem, ranks: Sequence[int], count: int) -> Iterator[tuple[Tensor, ...]]:
    """Random tensors whose dense tensor has about the norm of the array."""
    variance = problem.norm**2 / problem.x.numel()
    for _ in range(count):
        yield random_tensors(problem.layout, ranks, problem.x, problem.rng, variance=variance)


@dataclass(frozen=True, slots=True)
class ALS(Restarted):
    """Alternating least squares with extrapolation, Gauss–Newton steps where the network is small, and restarts.

    Attributes:
        max_steps: sweeps (or steps) for each start, those on a compressed array and of its first heat included.
        tol: stop when the error falls by less than this, relative to itself, over five steps.
        starts: how many starts are tried.
        start: "svd" (a tree of truncated SVDs, or the format's direct method), "random", or "auto": the first of them
            and then the second.
        ridge: pull towards the old value of a node, as a share of the mean eigenvalue of its normal matrix.
        newton: whether Gauss–Newton steps may take over.
        compress: whether large arrays are fitted in a Tucker basis first.

    References:
        Kolda & Bader, doi:10.1137/07070111X (CP); Holtz, Rohwedder, Schneider, doi:10.1137/100818893 (trains).
    """

    start: str = "auto"
    ridge: float = 0.0
    newton: bool = True
    compress: bool = True
    kinds_of_start: ClassVar[tuple[str, ...]] = ("auto", "svd", "random")
    name: ClassVar[str] = "als"
    formats: ClassVar[tuple[str, ...]] = ("*",)
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "alternating least squares on any network, started from SVDs and at random"

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
        return fit_network(
            problem,
            ranks,
            start,
            goal,
            starts=lambda p: [] if self.start == "random" else svd_starts(p, ranks),
            count=0 if self.start == "svd" else self.starts,
            control=self.control(problem, goal, quick=quick),
            ridge=self.ridge,
            newton=newton_limit(goal, quick=quick) if self.newton else 0,
            quick=quick,
            compress=self.compress,
        )

    def direct(self, problem: Problem) -> Trial | None:
        """A tree of SVDs, or the format's direct method, where they do what is asked."""
        if problem.target.eps is None:
            return exact_tree(problem)
        return self.sized(problem)

    def sized(self, problem: Problem) -> Trial | None:
        """As `direct` with an eps or a size."""
        found = direct_fit(problem, DIRECT_METHODS.get(problem.layout.name, ()))
        return found if found is not None else tree_within(problem)


def fit_network(
    problem: Problem,
    ranks: Sequence[int],
    start: Sequence[Tensor] | None,
    goal: float | None,
    *,
    starts: Callable[[Problem], Sequence[Start]],
    count: int,
    control: Control,
    ridge: float,
    newton: int,
    quick: bool,
    compress: bool = True,
) -> Trial:
    """Fit given ranks on any topology: compressed first where that pays, from what is known, then at random.

    Args:
        problem: what to fit.
        ranks: one a bond.
        start: tensors to begin with; no other starts are tried then.
        goal: a relative error at which to stop.
        starts: what the format has of its own, for the problem or for a compressed one.
        count: how many starts in all, filled up at random; a tree that has a start of its own needs no more.
        control: when each of them stops.
        ridge: see `LeastSquares.sweep`.
        newton: up to how many parameters Gauss–Newton steps may take over.
        quick: whether this is one of many attempts.
        compress: whether a large array is fitted in the leading basis of each mode first.
    """

    def solve(small: Problem, inside: Sequence[Tensor] | None, limits: Control) -> Trial:
        network = least_squares(small)
        if inside is not None:
            return descend(network, inside, limits, ridge=ridge, newton=newton)
        own = list(starts(small))
        more = 0 if own and is_tree(small.layout, ranks) else min(count, 2) if quick else count - len(own)
        pool = [*own, *random_starts(small, ranks, max(more, 0 if own else 1))]
        return descend_from(network, pool, limits, ridge=ridge, newton=newton)

    def polish(rough: Trial, limits: Control) -> Trial:
        return go_on(least_squares(problem), rough, limits, ridge=ridge, newton=newton)

    control = replace(control, target=goal)
    found = fit_compressed(problem, ranks, start, control, solve, polish) if compress else None
    return solve(problem, start, control) if found is None else found


def exact_tree(problem: Problem) -> Trial | None:
    """A tree whose ranks hold everything, if the ranks that are asked for admit one."""
    ranks = spanning_ranks(problem.layout, problem.max_ranks)
    if ranks is None:
        return None
    tensors = tree_tensors(problem.x, problem.layout, ranks, problem.rng, problem.norm)
    if tensors is None:
        return None
    error = measured(problem, tensors)
    return Trial(tensors, error, DIRECT) if error <= 100 * rounding_error(problem.x.dtype) else None


def tree_within(problem: Problem) -> Trial | None:
    """Truncated SVDs along a tree in the network, with the ranks that its target asks for; None if it holds no tree."""
    layout = problem.layout
    limits = spanning_ranks(layout, problem.max_ranks)
    if limits is None:
        return None
    path = edges(layout.topology, layout.label_sizes(limits))
    assert path is not None  # that is what spanning ranks are
    tensors, error = fit_tree(replace(problem, target=replace(problem.target, ranks=limits)), path)
    return Trial(tensors, error, DIRECT)


def svd_starts(problem: Problem, ranks: tuple[int, ...]) -> list[Sequence[Tensor]]:
    """Truncated SVDs along the network, or along a tree in it with the other bonds of rank one, padded to the ranks."""
    layout = problem.layout
    inner = spanning_ranks(layout, ranks)
    if inner is None:
        return []
    tensors = tree_tensors(problem.x, layout, inner, problem.rng, problem.norm)
    if tensors is None:
        return []
    return [grown(layout.topology, tensors, dict(zip(layout.bonds, ranks, strict=True)), problem.rng)]


METHODS.register(ALS.name, ALS)
