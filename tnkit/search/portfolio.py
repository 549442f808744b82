"""The portfolio: every named format over the array as it is, every useful unfolding, and the best tree that is found.

Formats that are fitted directly come first, then the tree. Where an eps is asked, the spectra that the tree took tell
how small each of the others can be, and what cannot be smaller than what is there is not fitted.

It is what `decompose(x, "auto", …)` runs: its answer is never larger, at the asked error, than that of any fixed format
it tried, nor than the truncated SVD of the best unfolding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from math import ceil, inf, prod
from typing import Any

import torch
from torch import Tensor

from tnkit.decompose import REORDERED, Target, methods_for, run, run_reordered
from tnkit.errors import BudgetError, OptionError, RankError, ShapeError
from tnkit.formats import FormatSpec, Layout, LowRankSpec
from tnkit.registry import FORMATS
from tnkit.report import FitReport
from tnkit.search.format_bounds import least_size
from tnkit.search.front import Candidate, SearchResult, pareto_front
from tnkit.search.proofs import Proofs
from tnkit.search.runner import Limits, run_search
from tnkit.search.trees import TreeSearch
from tnkit.solvers import CONVERGED, INTERRUPTED, Control

__all__ = ["Portfolio", "unfoldings"]

#: More modes than this, and only contiguous unfoldings and single modes are tried.
ALL_UNFOLDINGS_UP_TO = 6

#: Trees are searched for at so many modes, entries and from such an error on.
_TREE_MODES, _TREE_ENTRIES, _TREE_EPS = 7, 5_000_000, 1e-6

#: Reordered formats that take long; the portfolio does not try them in other orders.
ITERATIVE = ("tr",)


def unfoldings(d: int) -> tuple[tuple[int, ...], ...]:
    """Sets of row modes, one for each unfolding that is worth a try (the complement gives the same matrix, transposed).

    Example:
        >>> unfoldings(3)
        ((0,), (0, 1), (0, 2))
    """
    if d < 2:
        return ()
    if d <= ALL_UNFOLDINGS_UP_TO:
        rest = range(1, d)
        return tuple((0, *chosen) for k in range(d - 1) for chosen in combinations(rest, k))
    chains = [tuple(range(k)) for k in range(1, d)]
    return tuple(dict.fromkeys([*chains, *((k,) for k in range(d))]))


@dataclass(frozen=True, slots=True)
class Portfolio:
    """Try the fixed formats.

    Attributes:
        time_limit_s: no new iterative method is started after this; direct ones are always run.
        formats: names; all registered ones by default.
    """

    time_limit_s: float = 30.0
    formats: tuple[str, ...] | None = None

    def search(
        self,
        x: Tensor,
        norm: float,
        *,
        eps: float | None,
        max_params: int | None,
        rng: torch.Generator,
        control: Control,
        dtype: torch.dtype | None = None,
        asked: str = "",
        permute: bool = False,
    ) -> SearchResult:
        """Fit the candidates.

        Args:
            x: engine tensor.
            norm: of it.
            eps: relative error.
            max_params: entries that may be stored.
            rng: random numbers.
            control: deadline and progress.
            dtype: of the results, where it is a half type.
            asked: the target in words.
            permute: whether trains, trees and Tucker tensors of other orders of the modes are tried as well.

        Raises:
            BudgetError: no candidate fits the size budget.
        """
        begun = time.monotonic()
        limited = control.within(self.time_limit_s)
        target = Target(eps=eps, max_params=max_params)
        tried: list[Candidate] = []
        left_out: list[tuple[str, str]] = []
        options: dict[str, Any] = {"rng": rng, "control": limited, "dtype": dtype, "asked": asked}
        direct, iterative = _by_cost(self._specs(tuple(x.shape)), target)
        for item in direct:
            if not _interrupted(tried):
                self._try(x, norm, item, target, tried, left_out, {}, options)
        stopped, proved = False, Proofs(why_none="no trees were searched for an array of such a shape")
        if not _interrupted(tried) and _worth_a_tree(x, eps):
            found = _tree(x, norm, Limits(eps, max_params), **options)
            if found is not None:
                tried.append(Candidate(f"tree {found.best.label}", found.best.fit))
                stopped, proved = found.status == INTERRUPTED, found.proofs
        needs = dict(proved.ranks) if min(x.shape, default=1) > 1 else {}
        for item in iterative:
            stopped = stopped or _interrupted(tried)
            if not stopped:
                self._try(x, norm, item, target, tried, left_out, needs, options)
        stopped = stopped or _interrupted(tried)
        for label, spec, layout in self._specs(tuple(x.shape)) if permute and not stopped else ():
            if label in REORDERED and label not in ITERATIVE:
                try:
                    fit = run_reordered(x, norm, spec, layout, within(target), **options)
                except BudgetError as error:
                    left_out.append((f"{label}, reordered", str(error).split(". ")[0]))
                    continue
                tried.append(Candidate(f"{label}, reordered", fit))
        if not tried:
            raise BudgetError(
                f"No format of shape {tuple(x.shape)} fits what was asked ({asked}). Allow more parameters."
            )
        best = min(tried, key=lambda c: _score(c.fit, eps))
        why = f"the {'most accurate' if eps is None else 'smallest'} of {len(tried)} structures that were tried"
        spent = time.monotonic() - begun
        result = SearchResult(
            pareto_front(tried),
            best,
            tuple(tried),
            tuple(left_out),
            spent,
            INTERRUPTED if stopped else CONVERGED,
            eps=eps,
            proofs=proved,
        )
        why = "; ".join([f"{best.label}, {why}", *result.told_gaps()])
        return replace(result, best=Candidate(best.label, replace(best.fit, why=why, elapsed_s=spent)))

    def _try(
        self,
        x: Tensor,
        norm: float,
        item: tuple[str, FormatSpec, Layout],
        target: Target,
        tried: list[Candidate],
        left_out: list[tuple[str, str]],
        needs: Mapping[int, int],
        options: dict[str, Any],
    ) -> None:
        """Fit one format and add it to `tried`, or to `left_out` with the reason."""
        label, spec, layout = item
        methods = methods_for(layout, target)
        iterative = bool(methods) and methods[0].iterative
        wanted = _capped(target, tried, iterative=iterative)
        at_one = layout.n_params((1,) * len(layout.bonds))
        beaten = needs and wanted is not target  # some other reaches eps, and this one is to be smaller
        least = least_size(layout, needs) if beaten else 0.0
        if not methods:
            left_out.append((label, "no method takes what is asked"))
        elif target.max_params is not None and at_one > target.max_params:
            left_out.append((label, f"takes {at_one} entries at rank 1"))
        elif least == inf:
            left_out.append((label, "cannot have the ranks that the cuts need"))
        elif beaten and least > (wanted.max_params or inf):
            left_out.append((label, f"takes {ceil(least)} entries or more at the ranks that the cuts need"))
        elif options["control"].out_of_time and iterative and tried:
            left_out.append((label, "the time was up"))
        else:
            try:
                tried.append(Candidate(label, run(x, norm, spec, layout, wanted, method=methods[0], **options)))
            except (BudgetError, RankError) as error:
                left_out.append((label, str(error).split(". ")[0]))

    def _specs(self, shape: tuple[int, ...]) -> Iterator[tuple[str, FormatSpec, Layout]]:
        for name in self.formats or FORMATS.names():
            spec = FORMATS.get(name)
            if name == "lowrank" and len(shape) > 1:
                for rows in unfoldings(len(shape)):
                    unfolded = LowRankSpec(row_modes=rows)
                    yield f"lowrank of modes {rows}", unfolded, unfolded.layout(shape)
                continue
            try:
                yield name, spec, spec.layout(shape)
            except (ShapeError, OptionError):
                continue


def _worth_a_tree(x: Tensor, eps: float | None) -> bool:
    """Whether trees in any order of the modes can gain on the formats in the given one, and take no longer."""
    modes = sum(n > 1 for n in x.shape)
    return 3 <= modes <= _TREE_MODES and x.numel() <= _TREE_ENTRIES and (eps is None or eps >= _TREE_EPS)


def _tree(x: Tensor, norm: float, limits: Limits, **options: Any) -> SearchResult | None:
    """A search over trees."""
    try:
        return run_search(x, norm, TreeSearch(), limits, **options)
    except (BudgetError, ShapeError):
        return None


def within(target: Target) -> Callable[[Layout], Target]:
    """The target for any layout that can hold it."""

    def aim(layout: Layout) -> Target:
        least = layout.n_params((1,) * len(layout.bonds))
        if target.max_params is not None and least > target.max_params:
            raise BudgetError(f"{layout.name} takes {least} entries at rank 1. Allow more parameters.")
        return target

    return aim


def _by_cost(
    specs: Iterator[tuple[str, FormatSpec, Layout]], target: Target
) -> tuple[list[tuple[str, FormatSpec, Layout]], list[tuple[str, FormatSpec, Layout]]]:
    """Those of direct methods, and of iterative ones, which have the fewest ranks to find first."""
    direct: list[tuple[str, FormatSpec, Layout]] = []
    iterative: list[tuple[str, FormatSpec, Layout]] = []
    for item in specs:
        methods = methods_for(item[2], target)
        (iterative if methods and methods[0].iterative else direct).append(item)
    return direct, sorted(iterative, key=lambda item: len(item[2].bonds))


def _interrupted(tried: list[Candidate]) -> bool:
    return bool(tried) and tried[-1].fit.status == INTERRUPTED


def _capped(target: Target, tried: list[Candidate], *, iterative: bool) -> Target:
    """An iterative method need not look where a direct one is smaller already: give it that size as its limit."""
    if not iterative or target.eps is None:
        return target
    reached = [c.fit for c in tried if c.fit.rel_error <= target.eps * (1 + 1e-9)]
    if not reached:
        return target
    entries = min(sum(prod(t.shape) for t in fit.tensor.tensors()) for fit in reached)
    return replace(target, max_params=entries if target.max_params is None else min(entries, target.max_params))


def _score(fit: FitReport, eps: float | None) -> tuple[float, float]:
    if eps is None:
        return (fit.rel_error, fit.n_params)
    met = fit.rel_error <= eps * (1 + 1e-9)
    return (float(fit.n_params), fit.rel_error) if met else (float("inf"), fit.rel_error)
