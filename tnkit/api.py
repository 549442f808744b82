"""The front doors: decompose, complete, search, explain. The boundary, the automatic choice, errors in context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from numbers import Real
from typing import Any

import torch

from tnkit.arrays import ArrayLike, as_tensor, require_finite
from tnkit.completion import complete
from tnkit.decompose import Target, as_method, methods_for, relative_error, run, run_reordered, run_source, sparse_error
from tnkit.errors import BudgetError, DTypeError, OptionError, ShapeError
from tnkit.files import PathLikeStr
from tnkit.formats import Budget, Format, FormatSpec, Layout, RankLike, Tensorized, as_budget, as_spec, resolve_ranks
from tnkit.network import Topology
from tnkit.registry import METHODS
from tnkit.report import FitReport, listening
from tnkit.rng import RngLike, generator
from tnkit.search import (
    STRATEGIES,
    AutoSearch,
    Limits,
    Portfolio,
    Proposer,
    SearchResult,
    run_reshaped,
    run_search,
)
from tnkit.solvers import Control, StepInfo
from tnkit.sources import Asked, Source, SparseTensor, as_bytes, as_source

__all__ = ["Explanation", "complete", "decompose", "error", "explain", "round", "search"]

FormatLike = str | FormatSpec | Topology


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
    request = _request(source or x, rank=rank, eps=eps, budget=budget, shape=said.shape)
    asked = _in_words(rank, request.eps, budget)
    with listening(progress) as hear:
        control = Control(progress=hear).within(_time_limit(time_limit_s))
        gen = generator(rng, request.device)
        if isinstance(format, str) and format == "auto":
            _auto_takes(rank, method, source)
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
        target = _target(layout, rank, request)
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
                lambda other: _target(other, rank, request),
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


def _auto_takes(rank: Any, method: Any, source: Source | None) -> None:
    if rank is not None:
        raise OptionError(f'rank={rank!r} with format "auto" says nothing. Give eps= or budget=, or name a format.')
    if method != "auto":
        raise OptionError(f'method={method!r} with format "auto" says nothing. Name a format, or leave method out.')
    if source is not None:
        raise OptionError('Format "auto" tries dense arrays in memory only. Name a format, for example "tt".')


def _permute_takes(rank: Any) -> None:
    if rank is not None and not isinstance(rank, Real | str):
        raise OptionError(
            f"rank={rank!r} with permute=True: which cut a rank belongs to is known only when the order is chosen. "
            "Give an int or a fraction, or eps= or budget=."
        )


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
        (('any network', 72), ('any tree', 99))
    """
    source = as_source(x)
    if source is not None:
        raise DTypeError(_dense_only(source))
    chosen = _strategy(strategy)
    request = _request(x, rank=None, eps=eps, budget=budget)
    limit = _time_limit(time_limit_s)
    asked = _in_words(None, request.eps, budget)
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
        if isinstance(shape, str):
            return run_reshaped(
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
        return run_search(
            request.dense,
            request.norm(),
            chosen,
            limits,
            shape=None if shape is None else tuple(shape),
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


_KINDS = {"entries": "a function of indices", "sparse": "sparse coordinates", "slabs": "data read in slabs"}


def _dense_only(source: Source) -> str:
    """What to do with an array that is not dense in memory."""
    methods = [METHODS.get(name) for name in METHODS]
    formats = dict.fromkeys(name for m in methods if m.needs == source.kind for name in m.formats)
    named = ", ".join(f'"{name}"' for name in formats)
    return (
        f"A search tries dense arrays in memory only; x of shape {source.shape} is {_KINDS[source.kind]}. Formats that "
        f"take those are {named}: use tk.decompose(x, …) with one of them, or give a dense array (x.to_dense())."
    )


@dataclass(frozen=True, slots=True, repr=False)
class Explanation:
    """What `decompose` would do.

    Attributes:
        format: the format.
        method: the method that would run.
        why: the reason.
        alternatives: (name, summary) of the other methods that could.
        bonds: the bonds and the largest useful rank of each.
        max_params: the size at those ranks.
    """

    format: str
    method: str
    why: str
    alternatives: tuple[tuple[str, str], ...]
    bonds: tuple[tuple[str, int], ...]
    max_params: int

    def __repr__(self) -> str:
        """Readable text."""
        bonds = ", ".join(f"{name} <= {cap}" for name, cap in self.bonds) or "none"
        lines = [f"{self.format}: {self.method}, {self.why}", f"  bonds: {bonds} (at most {self.max_params:,} entries)"]
        lines += [f"  or {name}: {summary}" for name, summary in self.alternatives]
        return "\n".join(lines)


def explain(
    x: ArrayLike | SearchResult,
    format: FormatLike = "auto",
    *,
    rank: RankLike | None = None,
    eps: float | None = None,
    budget: Budget | int | float | None = None,
    method: Any = "auto",
) -> Explanation:
    """Which method `decompose` would take for these arguments, and why; nothing is decomposed.

    Args:
        x: the array; sparse coordinates get the methods that take those. Or what `search` found: then why its best is
            the best, with the others of the front as alternatives.
        format: as for `decompose`.
        rank: as there.
        eps: as there.
        budget: as there.
        method: as there.

    Example:
        >>> import numpy as np, tnkit as tk
        >>> tk.explain(np.ones((4, 5, 6)), "tt", eps=1e-2).method
        'tt_svd'
    """
    if isinstance(x, SearchResult):
        return _explain_search(x)
    source = as_source(x)
    request = _request(source or x, rank=rank, eps=eps, budget=budget)
    if isinstance(format, str) and format == "auto":
        _auto_takes(rank, method, source)
        why = "tries every named format and useful unfolding, direct methods first, and keeps the smallest that fits"
        return Explanation("auto", "portfolio", why, (), (), prod(request.shape))
    layout = as_spec(format).layout(request.shape)
    target = _target(layout, rank, request)
    needs = "dense" if source is None else source.kind
    chosen, why = as_method(method, layout, target, needs)
    others = tuple((m.name, m.summary) for m in methods_for(layout, target, needs) if m.name != chosen.name)
    bonds = tuple(zip(layout.bonds, layout.caps, strict=True))
    reason = chosen.summary if method == "auto" else why
    return Explanation(layout.name, chosen.name, reason, others, bonds, layout.n_params(layout.caps))


def _explain_search(found: SearchResult) -> Explanation:
    fit = found.best.fit
    value = fit.tensor.format if isinstance(fit.tensor, Tensorized) else fit.tensor
    topology = value.topology()
    sizes = topology.sizes([t.shape for t in value.tensors()]) if not any(topology.constants) else {}
    bonds = tuple((label, sizes[label]) for label in topology.internal if label in sizes)
    others = tuple(
        (c.label, f"{c.fit.n_params:,} numbers at error {c.fit.rel_error:.3g}")
        for c in found.front
        if c.label != found.best.label
    )
    return Explanation(value.name, fit.method, found.why, others, bonds, fit.n_params)


def error(x: ArrayLike, approximation: Format) -> float:
    """The true relative error ‖x − x̂‖/‖x‖ of a format, measured in blocks.

    That of a sparse array is found from its entries and the norm of the format, so it is true to 1 % from about 1e-6 on
    and an upper bound below, unless the array is small.

    Args:
        x: the array; sparse coordinates are not made dense.
        approximation: a format of the same shape.

    Raises:
        ShapeError: shapes differ.

    Example:
        >>> import numpy as np, tnkit as tk
        >>> x = np.ones((4, 5))
        >>> tk.error(x, tk.decompose(x, "lowrank", rank=1).tensor) < 1e-15
        True
    """
    sparse = as_source(x)
    if isinstance(sparse, SparseTensor):
        if sparse.shape != approximation.shape:
            raise ShapeError(f"x has shape {sparse.shape}, the {approximation.name} {approximation.shape}.")
        return sparse_error(sparse, approximation)[0]
    incoming = as_tensor(x)
    if tuple(incoming.tensor.shape) != approximation.shape:
        raise ShapeError(f"x has shape {tuple(incoming.tensor.shape)}, the {approximation.name} {approximation.shape}.")
    require_finite(incoming.tensor)
    return relative_error(incoming.tensor, approximation)


def round(value: Format, rank: RankLike | None = None, *, eps: float | None = None) -> Format:
    """The same tensor, nearly, with smaller ranks: what to do after sums and products, whose ranks have grown.

    Args:
        value: a format.
        rank: the ranks of the result, or upper limits of them where eps is given too; as for `decompose`.
        eps: relative Frobenius error of the result against `value`.

    Returns:
        The same kind of format. Trains, Tucker tensors, trees, structured matrices and tubal SVDs are rounded as they
        are; other formats by way of the dense tensor, where that fits the memory.

    Raises:
        OptionError: neither rank nor eps is given.
        RankError: a rank that the shape does not admit.
        MemoryLimitError: the dense tensor would be needed, and does not fit.

    Example:
        >>> import tnkit as tk
        >>> a = tk.random_format("tt", (8, 9, 10), rank=3, rng=0)
        >>> (a + a).ranks, tk.round(a + a, eps=1e-10).ranks
        ((6, 6), (3, 3))
    """
    if rank is None and eps is None:
        raise OptionError("Say how small or how exact: give rank= or eps=. Example: tk.round(a + b, eps=1e-10).")
    return value.round(rank, eps=_eps(eps))


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    tensor: torch.Tensor | None
    shape: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype
    eps: float | None
    max_params: int | None

    @property
    def dense(self) -> torch.Tensor:
        assert self.tensor is not None
        return self.tensor

    def norm(self) -> float:
        return require_finite(self.dense)


def _request(
    x: ArrayLike | Source, *, rank: Any, eps: Any, budget: Any, shape: Sequence[int] | None = None
) -> _Request:
    tensor: torch.Tensor | None = None
    if isinstance(x, Source):
        own, device, dtype = x.shape, x.device, x.dtype
    else:
        incoming = as_tensor(x)
        tensor, dtype = incoming.tensor, incoming.dtype
        own, device = tuple(tensor.shape), tensor.device
    if shape is not None and tuple(shape) != own:
        raise ShapeError(f"shape={tuple(shape)} was given, and the array has shape {own}. Leave shape= out.")
    limits = as_budget(budget)
    unusable = [name for name in ("flops", "latency_ms", "max_drop") if getattr(limits, name) is not None]
    if unusable:
        raise BudgetError(f"Budget({unusable[0]}=…) is for layers. For arrays use params, bytes or max_error.")
    eps = _eps(eps)
    if limits.max_error is not None:
        eps = limits.max_error if eps is None else min(eps, limits.max_error)
    parts = 2 if dtype.is_complex else 1
    real_limit = limits.max_params(prod(own) * parts, dtype)
    if rank is None and eps is None and real_limit is None:
        raise OptionError(
            "Say how small or how exact: give at least one of rank=, eps= and budget=. Example: eps=1e-2."
        )
    entries = None if real_limit is None else real_limit // parts
    return _Request(tensor, own, device, dtype, eps, entries)


def _eps(eps: Any) -> float | None:
    if eps is None:
        return None
    if isinstance(eps, bool) or not isinstance(eps, Real) or not isfinite(float(eps)) or float(eps) < 0:
        raise OptionError(f"eps={eps!r} is not a relative error. Give a number of 0 or more, such as 1e-2.")
    return float(eps)


def _time_limit(limit: Any) -> float | None:
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, Real) or not float(limit) > 0:
        raise OptionError(f"time_limit_s={limit!r} must be a number of seconds above 0.")
    return float(limit)


def _target(layout: Layout, rank: RankLike | None, request: _Request) -> Target:
    ranks = None if rank is None else resolve_ranks(layout, rank)
    if request.max_params is not None:
        least = layout.n_params((1,) * len(layout.bonds))
        if least > request.max_params:
            raise BudgetError(
                f"{layout.name} over shape {layout.shape} needs {least} entries at rank 1, but the budget allows "
                f"{request.max_params}. Allow at least {least}, or take a smaller format."
            )
    return Target(ranks, request.eps, request.max_params)


def _in_words(rank: Any, eps: float | None, budget: Any) -> str:
    parts: Sequence[str] = [
        f"{name}={value}" for name, value in (("rank", rank), ("eps", eps), ("budget", budget)) if value is not None
    ]
    return ", ".join(parts)
