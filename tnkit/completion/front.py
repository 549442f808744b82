"""The front door of completion: the boundary, the checks, the automatic choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from numbers import Real
from time import monotonic
from typing import Any

from tnkit.arrays import ArrayLike
from tnkit.completion.als import CompletionALS
from tnkit.completion.base import NOTHING_MISSING, CompletionFit, CompletionMethod, CompletionProblem
from tnkit.completion.choice import choose_format
from tnkit.completion.dense_choice import better_than_formats, looks_like_an_image
from tnkit.completion.observations import Observations
from tnkit.completion.patches import PatchGroups
from tnkit.completion.result import Completion
from tnkit.completion.sparse_choice import from_coordinates, looks_sparse
from tnkit.errors import MaskError, OptionError, UnknownNameError
from tnkit.formats import FormatSpec, RankLike, as_spec, resolve_ranks
from tnkit.network import Topology
from tnkit.registry import COMPLETIONS, FORMATS
from tnkit.report import listening
from tnkit.rng import RngLike, generator
from tnkit.solvers import CONVERGED, DIRECT, INTERRUPTED, REACHED, TIME_LIMIT, Control, StepInfo

__all__ = ["complete"]


def complete(
    x: ArrayLike | Observations,
    format: str | FormatSpec | Topology = "auto",
    *,
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    rank: RankLike = "auto",
    method: str | CompletionMethod = "auto",
    time_limit_s: float | None = None,
    rng: RngLike = 0,
    progress: bool | Callable[[StepInfo], None] | None = None,
) -> Completion:
    """Fill in what is missing of an array, and estimate the error on it from entries that are held out.

    Args:
        x: an array whose missing entries are NaN; an array with `mask`; a `numpy.ma` array, which brings its own mask
            (there True = missing); or `Observations(indices, values, shape)`, which is never made dense. It is not
            changed, and what stands in a missing cell is not read.
        format: a name ("tt", "tr", "tucker", "cp", "ht", "btd" …), a spec, an equation such as "ia,ajb,bk->ijk", or
            "auto": patch groups (which have no format) for what looks like an image, otherwise the best by held-out
            errors of tensor train, CP and Tucker, patch groups for cubes of channels, and nuclear norms for panels.
        mask: bool, of the shape of `x`: **True = observed**.
        weights: of the shape of `x`, from 0 to 1: how much an entry counts in the fit. For `Observations` they are an
            argument there.
        rank: an int (every bond), a tuple, a mapping by bond, a fraction of the dense entries, or "auto": grown while
            the held-out error falls.
        method: "auto", a name ("als", "coordinates", "robust", "funbat", "patches", "tctv", "search" …:
            `tk.registry.COMPLETIONS` lists them, the guide says when each), or a config such as
            `CompletionALS(max_steps=50)`.
        time_limit_s: seconds after which the best so far is given; so does Ctrl-C.
        rng: a seed or a generator; 0 by default, so that the same call gives the same answer.
        progress: True for a progress line on standard error, or a function that hears of every step.

    Returns:
        A `Completion`: `.filled` (the kind and dtype of `x`, observed entries unchanged bit by bit), `.tensor`,
        `.predict(indices)`, `.heldout_error`, `.status`, `.history`.

    Where nothing is missing, `filled` is the array itself, at once: nothing is fitted, and `tensor` is None, unless a
    format, a method or weights say what is to be fitted to it.

    Raises:
        MaskError: a mask of another shape or kind, or nothing observed.
        DataError: an empty array, or infinite values among the observed.
        RankError, OptionError, ShapeError, EquationError, UnknownNameError: what is asked cannot be.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> i, j, k = np.ogrid[:12, :12, :12]
        >>> x = 1.0 * i * j + k
        >>> holes = np.where(np.random.default_rng(0).random(x.shape) < 0.5, x, np.nan)
        >>> bool(np.abs(complete(holes, "tt", rank=2).filled - x).max() < 1e-6)
        True
    """
    begun = monotonic()
    limit = _time_limit(time_limit_s)
    obs = _observations(x, mask, weights)
    chosen, spec, why = _request(obs, format, rank, method)
    if obs.complete and obs.weights is None and _is_auto(format) and _is_auto(method):
        generator(rng)
        return _whole(obs, begun)
    layout = None if spec is None else spec.layout(obs.shape)
    ranks = None if layout is None or _is_auto(rank) else resolve_ranks(layout, rank)
    if weights is not None and not chosen.weights:
        raise OptionError(f'method "{chosen.name}" takes no weights. Use method="als", or leave weights out.')
    gen, trial, better = generator(rng, obs.values.device), None, None
    with listening(progress, label="completing") as hear:
        control = Control(progress=hear).within(limit)
        problem = CompletionProblem(obs, layout, ranks, gen, control)
        wide = None
        if _is_auto(format) and _is_auto(method) and looks_sparse(obs):
            wide = from_coordinates(problem)
            chosen, spec, why = (wide.method, wide.spec, wide.why) if wide.settled else (chosen, spec, why)
            layout = wide.spec.layout(obs.shape) if wide.settled else layout
        if chosen.formats and layout is None:
            short = chosen if isinstance(chosen, CompletionALS) else CompletionALS()
            spec, why, trial = choose_format(problem, short)
            layout = spec.layout(obs.shape)
            problem = replace(problem, layout=layout)
            if _is_auto(method) and weights is None:
                better = better_than_formats(problem, chosen, trial)
                chosen, why = (better.method, better.why) if better is not None else (chosen, why)
        if wide is not None and wide.settled:
            fit = wide.fit
        else:
            fit = better.fit if better is not None else _better(chosen.fit(problem), trial)
        if wide is not None and not wide.settled and _nearer(wide.fit, fit):
            chosen, layout, fit, why = wide.method, wide.spec.layout(obs.shape), wide.fit, f"{wide.why}; {why}"
    layout = layout if fit.layout is None else fit.layout
    status = CONVERGED if fit.status is REACHED else fit.status
    if obs.complete and status in (CONVERGED, DIRECT):
        status = NOTHING_MISSING
    return Completion(
        observations=obs,
        tensor=None if fit.tensors is None or layout is None else layout.build(fit.tensors),
        dense=fit.dense,
        heldout_error=fit.heldout_error,
        train_error=fit.train_error,
        status=status,
        method=chosen.name,
        why=why,
        elapsed_s=monotonic() - begun,
        history=fit.history,
        back=obs.back,
        spread=fit.std,
        function=fit.function,
    )


def _nearer(one: CompletionFit, other: CompletionFit) -> bool:
    """Whether the first fit is nearer to held-out entries than the second."""
    if one.heldout_error is None or other.heldout_error is None:
        return other.heldout_error is None
    return one.heldout_error < other.heldout_error


def _whole(obs: Observations, begun: float) -> Completion:
    """The answer where nothing is missing and nothing was asked of it."""
    return Completion(
        observations=obs,
        tensor=None,
        dense=obs.to_dense(),
        heldout_error=None,
        train_error=0.0,
        status=NOTHING_MISSING,
        method="none",
        why="nothing is missing",
        elapsed_s=monotonic() - begun,
        history=(),
        back=obs.back,
    )


def _better(fit: CompletionFit, trial: CompletionFit | None) -> CompletionFit:
    """The fit; but where it was stopped before it was as good as the short one before it, that one."""
    if trial is None or fit.status not in (TIME_LIMIT, INTERRUPTED) or trial.heldout_error is None:
        return fit
    worse = fit.heldout_error is None or fit.heldout_error > trial.heldout_error
    return replace(trial, status=fit.status, history=trial.history + fit.history) if worse else fit


def _observations(x: Any, mask: Any, weights: Any) -> Observations:
    if not isinstance(x, Observations):
        return Observations.from_dense(x, mask, weights)
    if mask is not None:
        raise MaskError("x is given as Observations, which say themselves what is observed; leave mask out.")
    if weights is not None:
        raise OptionError(
            "x is given as Observations; give the weights there: Observations(indices, values, shape, weights)."
        )
    return x


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == "auto"


def _request(obs: Observations, format: Any, rank: Any, method: Any) -> tuple[CompletionMethod, FormatSpec | None, str]:
    """The method, the format (None where it is still to be chosen, or there is none), and why."""
    named = None if _is_auto(method) else _method(method)
    if not _is_auto(format):
        if isinstance(format, str) and format in COMPLETIONS and format not in FORMATS:
            raise UnknownNameError(
                f"{format!r} is no format but a method of completion. Use tk.complete(x, method={format!r})."
            )
        spec = as_spec(format)
        if named is not None and not named.formats:
            raise OptionError(
                f'method "{named.name}" fits no format, so format={format!r} says nothing. '
                'Leave format out, or use method="als".'
            )
        if named is None:
            return CompletionALS(), spec, f"the method for any format; {spec.name} was asked for"
        return named, spec, "as asked for"
    if named is not None and named.only:
        return named, as_spec(named.only), "as asked for"
    if not _is_auto(rank):
        raise OptionError(f'rank={rank!r} with format "auto" says nothing. Name a format, or leave rank out.')
    if named is not None:
        return named, None, "as asked for"
    if not obs.complete and looks_like_an_image(obs):
        return PatchGroups(), None, "a smooth array with two long modes and few channels, as an image is"
    return CompletionALS(), None, ""


def _method(method: Any) -> CompletionMethod:
    if isinstance(method, CompletionMethod):
        return method
    if isinstance(method, str):
        made: CompletionMethod = COMPLETIONS.get(method)()
        return made
    known = ", ".join(COMPLETIONS.names())
    raise OptionError(
        f"method={method!r} is not known. Use 'auto', a name ({known}), or a config such as CompletionALS()."
    )


def _time_limit(limit: Any) -> float | None:
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, Real) or not isfinite(float(limit)) or not float(limit) > 0:
        raise OptionError(f"time_limit_s={limit!r} must be a number of seconds above 0.")
    return float(limit)
