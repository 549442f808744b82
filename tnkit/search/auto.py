"""The default search: the named formats, then graphs that are smaller than the best of them.

Example:
    >>> import tnkit as tk
    >>> from tnkit.search.graph import Graph
    >>> ring = tk.random_format("tr", (5, 5, 5, 5), 2, rng=0).to_dense()
    >>> tk.search(ring, eps=1e-4).best.fit.n_params
    80
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tnkit.errors import BudgetError, ShapeError
from tnkit.files import PathLikeStr
from tnkit.search.from_ranks import MatchedSearch
from tnkit.search.front import Candidate, SearchResult, pareto_front
from tnkit.search.loops import LoopSearch
from tnkit.search.portfolio import Portfolio
from tnkit.search.proposer import Proposer
from tnkit.search.runner import Limits, run_search
from tnkit.search.several import Several
from tnkit.search.trees import TreeSearch
from tnkit.solvers import INTERRUPTED, Control

__all__ = ["AutoSearch"]


@dataclass(frozen=True, slots=True)
class AutoSearch:
    """A portfolio, and then a search over graphs that has to beat it.

    Attributes:
        portfolio: the named formats; left out where the array is reshaped.
        graphs: the search after it.
        seconds: for that search, where no time limit is given.
        entries: arrays of more entries get no search over graphs.
    """

    portfolio: Portfolio = field(default_factory=Portfolio)
    graphs: Proposer = field(default_factory=lambda: Several((TreeSearch(), MatchedSearch(otherwise=(LoopSearch(),)))))
    seconds: float = 30.0
    entries: int = 2**23

    def search(
        self,
        x: Tensor,
        norm: float,
        limits: Limits,
        *,
        shape: Sequence[int] | None,
        rng: torch.Generator,
        control: Control,
        limit_s: float | None,
        dtype: torch.dtype | None = None,
        asked: str = "",
        save: PathLikeStr | None = None,
        workers: int | None = None,
    ) -> SearchResult:
        """Run both.

        Args:
            x: engine tensor.
            norm: of it.
            limits: what is asked.
            shape: a reshaping over whose modes the graphs are; the named formats are not tried then.
            rng: random numbers.
            control: progress.
            limit_s: seconds in all; the formats take up to half of them.
            dtype: of the results, where it is a half type.
            asked: the target in words.
            save: a file of the graphs that were fitted.
            workers: processes that fit graphs.

        Raises:
            BudgetError: nothing fits the size.
        """
        begun = time.monotonic()
        first: SearchResult | None = None
        if shape is None:
            plan = self.portfolio if limit_s is None else replace(self.portfolio, time_limit_s=limit_s / 2)
            first = plan.search(
                x,
                norm,
                eps=limits.eps,
                max_params=limits.max_params,
                rng=rng,
                control=control,
                dtype=dtype,
                asked=asked,
            )
            if x.numel() > self.entries or first.status == INTERRUPTED or norm == 0:
                return first
        left = self.seconds if limit_s is None else limit_s - (time.monotonic() - begun)
        if first is not None and (left <= 0 or sum(n > 1 for n in x.shape) < 2):
            return first
        try:
            second = run_search(
                x,
                norm,
                self.graphs,
                limits if first is None else _to_beat(first, limits, 2 if x.is_complex() else 1),
                shape=None if shape is None else tuple(shape),
                rng=rng,
                control=control.within(left),
                dtype=dtype,
                asked=asked,
                save=save,
                workers=workers,
            )
        except (BudgetError, ShapeError):
            if first is None:
                raise
            return first
        return second if first is None else _together(first, second, limits, time.monotonic() - begun)


def _to_beat(first: SearchResult, limits: Limits, parts: int) -> Limits:
    """Less than the formats needed, where they reached eps."""
    if limits.eps is None or first.best.fit.rel_error > limits.eps * (1 + 1e-9):
        return limits
    most = first.best.fit.n_params // parts - 1
    allowed = most if limits.max_params is None else min(most, limits.max_params)
    return replace(limits, max_params=allowed, strict=True)


def _together(first: SearchResult, second: SearchResult, limits: Limits, elapsed: float) -> SearchResult:
    """One result of both."""

    def score(c: Candidate) -> tuple[bool, float, float]:
        fit = c.fit
        if limits.eps is None:
            return (False, fit.rel_error, fit.n_params)
        missed = fit.rel_error > limits.eps * (1 + 1e-9)
        return (missed, fit.rel_error if missed else fit.n_params, fit.rel_error)

    tried = (*first.tried, *second.tried)
    best = min((first.best, second.best), key=score)
    return replace(
        second,
        front=pareto_front(tried),
        best=Candidate(best.label, replace(best.fit, elapsed_s=elapsed)),
        tried=tried,
        left_out=first.left_out,
        proofs=first.proofs.merged(second.proofs),
        elapsed_s=elapsed,
    )
