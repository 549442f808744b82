"""`decompose`: an array to a small network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from tnkit.api.request import FormatLike, auto_takes, in_words, request_of, target_of, time_limit
from tnkit.arrays import ArrayLike
from tnkit.decompose import as_method, run, run_reordered, run_source
from tnkit.errors import OptionError
from tnkit.formats import Budget, RankLike, as_spec
from tnkit.report import FitReport, listening
from tnkit.rng import RngLike, generator
from tnkit.search import Portfolio
from tnkit.solvers import Control, StepInfo
from tnkit.sources import Asked, as_bytes, as_source

__all__ = ["decompose"]


def decompose(
    x: ArrayLike,
    format: FormatLike = "auto",
    *,
    shape: Sequence[int] | None = None,
    rank: RankLike | None = None,
    eps: float | None = None,
    budget: Budget | int | float | None = None,
    permute: bool = False,
    memory_limit: int | str | None = None,
    method: Any = "auto",
    time_limit_s: float | None = None,
    progress: bool | Callable[[StepInfo], None] | None = None,
    rng: RngLike = 0,
) -> FitReport:
    """Decompose an array into a small tensor network.

    At least one of `rank`, `eps` and `budget` is given, and all that are given hold: the smallest result that keeps the
    limits of rank and size, and reaches `eps`; where it cannot, the status says so.

    Args:
        x: a NumPy array, a torch tensor, nested lists, or a registered kind; it is never changed. Half types are
            computed in float32. Or what is not a dense array in memory: a function of indices (with `shape=`), sparse
            coordinates, or an array that is read in slabs (with `memory_limit=`).
        format: a name ("tt", "tr", "tucker", "cp", "ht", "btd", "ttm", "lowrank", "btt", "monarch", "blast", "kron",
            "tubal"), a spec such as `TTMatrixSpec(rows=(4, 8))`, an equation such as "ia,ajb,bk->ijk", or "auto".
        shape: of a function's domain; for arrays it is known, and a different one is an error.
        rank: an int (for every bond, clipped to what the shape admits), a sequence (as given; too large is an error), a
            mapping by bond, or a fraction of the dense entries ("same" = 1.0).
        eps: relative Frobenius error that the result must not exceed, 0 or more.
        budget: stored real numbers: an int is a count, a float a fraction of the dense ones; or a `Budget`.
        permute: whether the modes may be put in another order, and merged or split, where that needs fewer numbers; the
            result has the array's own shape and order. It is never worse than without. With `rank`, an int or a
            fraction, alone: only the order is chosen, for the least error. It acts on "tt", "tr", "ht", "tucker" and
            "lowrank", and adds these to what "auto" tries.
        memory_limit: bytes that may be used beside the result, as a number or such as "300 MB"; the array is then read
            slab by slab.
        method: "auto", a name, or a config such as `HOOI(max_steps=30)`.
        time_limit_s: seconds after which iterative methods return their best so far.
        progress: True for a progress bar on standard error, or a function that hears of every step.
        rng: a seed or a generator; 0 by default, so that the same call gives the same answer.

    Returns:
        A `FitReport`: `.tensor`, `.rel_error` (measured, see `.error_kind`), `.status`, `.method`, `.n_params` …

    Raises:
        DataError: `x` holds NaN or infinite values, is empty or a scalar.
        RankError, BudgetError, OptionError, EquationError, ShapeError, UnknownNameError: what is asked cannot be.

    Example:
        >>> import numpy as np, tnkit as tk
        >>> i, j, k = np.ogrid[:20, :20, :20]
        >>> fit = tk.decompose(1.0 / (1 + i + j + k), "tt", eps=1e-3)
        >>> fit.rel_error <= 1e-3, fit.n_params < 800
        (True, True)
    """
    said = Asked(None if shape is None else tuple(shape), as_bytes(memory_limit))
    source = as_source(x, said)
    request = request_of(source or x, rank=rank, eps=eps, budget=budget, shape=said.shape)
    asked = in_words(rank, request.eps, budget)
    with listening(progress) as hear:
        control = Control(progress=hear).within(time_limit(time_limit_s))
        gen = generator(rng, request.device)
        if isinstance(format, str) and format == "auto":
            auto_takes(rank, method, source)
            portfolio = Portfolio() if time_limit_s is None else Portfolio(time_limit_s=time_limit_s)
            found = portfolio.search(
                request.dense,
                request.norm(),
                eps=request.eps,
                max_params=request.max_params,
                rng=gen,
                control=control,
                dtype=request.dtype,
                asked=asked,
                permute=permute,
            )
            return found.best.fit
        spec = as_spec(format)
        layout = spec.layout(request.shape)
        target = target_of(layout, rank, request)
        if source is not None:
            if permute:
                raise OptionError("permute=True needs a dense array in memory. Leave it out, or give the array.")
            return run_source(source, spec, layout, target, method=method, rng=gen, control=control, asked=asked)
        as_method(method, layout, target)
        if permute:
            _permute_takes(rank)
            return run_reordered(
                request.dense,
                request.norm(),
                spec,
                layout,
                lambda other: target_of(other, rank, request),
                method=method,
                rng=gen,
                control=control,
                dtype=request.dtype,
                asked=asked,
            )
        return run(
            request.dense,
            request.norm(),
            spec,
            layout,
            target,
            method=method,
            rng=gen,
            control=control,
            dtype=request.dtype,
            asked=asked,
        )


def _permute_takes(rank: Any) -> None:
    if rank is not None and not isinstance(rank, Real | str):
        raise OptionError(
            f"rank={rank!r} with permute=True: which cut a rank belongs to is known only when the order is chosen. "
            "Give an int or a fraction, or eps= or budget=."
        )
