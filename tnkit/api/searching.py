"""`search`: which network?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tnkit.api.request import in_words, request_of, time_limit
from tnkit.arrays import ArrayLike
from tnkit.errors import DTypeError, OptionError
from tnkit.files import PathLikeStr, require_place
from tnkit.formats import Budget
from tnkit.registry import METHODS
from tnkit.report import listening
from tnkit.rng import RngLike, generator
from tnkit.search import STRATEGIES, AutoSearch, Limits, Portfolio, Proposer, SearchResult, run_reshaped, run_search
from tnkit.solvers import Control, StepInfo
from tnkit.sources import Source, as_source

__all__ = ["search"]

_KINDS = {"entries": "a function of indices", "sparse": "sparse coordinates", "slabs": "data read in slabs"}


def search(
    x: ArrayLike,
    *,
    eps: float | None = None,
    budget: Budget | int | float | None = None,
    strategy: AutoSearch | Portfolio | Proposer | str = "auto",
    shape: Sequence[int] | str | None = None,
    time_limit_s: float | None = None,
    max_evaluations: int | None = None,
    save: PathLikeStr | None = None,
    workers: int | None = None,
    progress: bool | Callable[[StepInfo], None] | None = None,
    rng: RngLike = 0,
) -> SearchResult:
    """Try structures and give the Pareto front of (size, error).

    Args:
        x: a dense array, as for `decompose`.
        eps: relative error that is to be reached with the fewest numbers.
        budget: size within which the error is to be least.
        strategy: "auto" (the portfolio, then graphs that are smaller), "portfolio" (every named format and unfolding),
            a name of `tnkit.search.STRATEGIES` ("trees", "loops", "packing", "greedy", "tnale" …), or a config such as
            `GreedyTN(trial_steps=5)`.
        shape: a reshaping of the array, over whose modes the structures are, or "auto": the array's modes and some
            splits of them, one search after the other (with `save`, a file for each); not for "portfolio".
        time_limit_s: no new fit is started after this. Without it "auto" ends some seconds after the portfolio.
        max_evaluations: fits at the most; not for "portfolio".
        save: a file that holds every fit as the search goes on; a search with the file of an earlier one goes on from
            there. Not for "portfolio".
        workers: processes that fit, beside this one; None for none. What is found does not depend on it, if no time
            limit ends the search. Scripts that use it need `if __name__ == "__main__":`. Not for "portfolio".
        progress: as for `decompose`.
        rng: a seed or a generator.

    Returns:
        `.front`, `.best`, `.tried`; printed, it is a table. `.bounds` says what no structure of a kind can go below.
        Ctrl-C ends a search with the best so far.

    Raises:
        OptionError: an unknown strategy, or what it does not take.
        DTypeError: a sparse array, a function, or slabs.
        BudgetError: nothing fits the size.

    Example:
        >>> import numpy as np, tnkit as tk
        >>> x = np.fromfunction(lambda i, j, k: 1 / (1 + i + j + k), (8, 8, 8))
        >>> found = tk.search(x, eps=1e-2)
        >>> found.best.fit.rel_error <= 1e-2
        True
        >>> tk.search(x, eps=1e-2, strategy="trees").bounds
        (('any network', 72), ('any network of one tensor a mode', 72), ('any tree', 99))
    """
    source = as_source(x)
    if source is not None:
        raise DTypeError(_dense_only(source))
    chosen = _strategy(strategy)
    request = request_of(x, rank=None, eps=eps, budget=budget)
    limit = time_limit(time_limit_s)
    asked = in_words(None, request.eps, budget)
    gen = generator(rng, request.device)
    if isinstance(chosen, Portfolio):
        given = {"shape": shape, "max_evaluations": max_evaluations, "save": save, "workers": workers}
        extra = [name for name, value in given.items() if value is not None]
        if extra:
            known = ", ".join(repr(name) for name in STRATEGIES)
            raise OptionError(f"The portfolio does not take {extra[0]}=. Strategies that do: {known}.")
        plan = Portfolio(time_limit_s=limit) if strategy == "portfolio" and limit is not None else chosen
        with listening(progress) as hear:
            return plan.search(
                request.dense,
                request.norm(),
                eps=request.eps,
                max_params=request.max_params,
                rng=gen,
                control=Control(progress=hear),
                dtype=request.dtype,
                asked=asked,
            )
    wrong = isinstance(max_evaluations, bool) or not isinstance(max_evaluations, int | None)
    if wrong or (max_evaluations is not None and max_evaluations < 1):
        raise OptionError(f"max_evaluations={max_evaluations!r} must be a whole number of 1 or more, or None.")
    if save is not None:
        require_place(save)
    limits = Limits(request.eps, request.max_params, max_evaluations)
    if isinstance(shape, str) and shape != "auto":
        raise OptionError(f'shape={shape!r} is unknown. Give the sizes, such as (8, 8, 4), or "auto".')
    with listening(progress) as hear:
        if isinstance(chosen, AutoSearch) and not isinstance(shape, str):
            return chosen.search(
                request.dense,
                request.norm(),
                limits,
                shape=shape,
                rng=gen,
                control=Control(progress=hear),
                limit_s=limit,
                dtype=request.dtype,
                asked=asked,
                save=save,
                workers=workers,
            )
        if isinstance(chosen, AutoSearch):
            chosen = chosen.graphs
        run: Callable[..., SearchResult] = (
            run_reshaped
            if isinstance(shape, str)
            else partial(run_search, shape=None if shape is None else tuple(shape))
        )
        return run(
            request.dense,
            request.norm(),
            chosen,
            limits,
            rng=gen,
            control=Control(progress=hear).within(limit),
            dtype=request.dtype,
            asked=asked,
            save=save,
            workers=workers,
        )


def _strategy(strategy: Any) -> AutoSearch | Portfolio | Proposer:
    if isinstance(strategy, AutoSearch | Portfolio | Proposer):
        return strategy
    if strategy == "auto":
        return AutoSearch()
    if strategy == "portfolio":
        return Portfolio()
    if isinstance(strategy, str) and strategy in STRATEGIES:
        return STRATEGIES.get(strategy)()
    names = ", ".join(repr(name) for name in STRATEGIES)
    raise OptionError(
        f"strategy={strategy!r} is unknown. Known: 'auto', 'portfolio', {names}, or a config of one of them."
    )


def _dense_only(source: Source) -> str:
    """What to do with an array that is not dense in memory."""
    methods = [METHODS.get(name) for name in METHODS]
    formats = dict.fromkeys(name for m in methods if m.needs == source.kind for name in m.formats)
    named = ", ".join(f'"{name}"' for name in formats)
    return (
        f"A search tries dense arrays in memory only; x of shape {source.shape} is {_KINDS[source.kind]}. Formats that "
        f"take those are {named}: use tk.decompose(x, …) with one of them, or give a dense array (x.to_dense())."
    )
