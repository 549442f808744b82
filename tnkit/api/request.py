"""What a caller asked for, checked once: the array, its norm, the limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, prod
from numbers import Real
from typing import Any

import torch

from tnkit.arrays import ArrayLike, as_tensor, require_finite
from tnkit.decompose import Target
from tnkit.errors import BudgetError, OptionError, ShapeError
from tnkit.formats import FormatSpec, Layout, RankLike, as_budget, resolve_ranks
from tnkit.network import Topology
from tnkit.sources import Source

__all__ = ["FormatLike", "Request", "auto_takes", "eps_of", "in_words", "request_of", "target_of", "time_limit"]

FormatLike = str | FormatSpec | Topology


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What was asked, checked."""

    tensor: torch.Tensor | None
    shape: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype
    eps: float | None
    max_params: int | None

    @property
    def dense(self) -> torch.Tensor:
        """The array; only where it is dense and in memory."""
        assert self.tensor is not None
        return self.tensor

    def norm(self) -> float:
        """Its norm; DataError where it holds NaN or infinite values."""
        return require_finite(self.dense)


def request_of(
    x: ArrayLike | Source, *, rank: Any, eps: Any, budget: Any, shape: Sequence[int] | None = None
) -> Request:
    """Check what was asked of an array or a source."""
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
    eps = eps_of(eps)
    if limits.max_error is not None:
        eps = limits.max_error if eps is None else min(eps, limits.max_error)
    parts = 2 if dtype.is_complex else 1
    real_limit = limits.max_params(prod(own) * parts, dtype)
    if rank is None and eps is None and real_limit is None:
        raise OptionError(
            "Say how small or how exact: give at least one of rank=, eps= and budget=. Example: eps=1e-2."
        )
    entries = None if real_limit is None else real_limit // parts
    return Request(tensor, own, device, dtype, eps, entries)


def eps_of(eps: Any) -> float | None:
    """A relative error, checked."""
    if eps is None:
        return None
    if isinstance(eps, bool) or not isinstance(eps, Real) or not isfinite(float(eps)) or float(eps) < 0:
        raise OptionError(f"eps={eps!r} is not a relative error. Give a number of 0 or more, such as 1e-2.")
    return float(eps)


def time_limit(limit: Any) -> float | None:
    """Seconds, checked."""
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, Real) or not float(limit) > 0:
        raise OptionError(f"time_limit_s={limit!r} must be a number of seconds above 0.")
    return float(limit)


def target_of(layout: Layout, rank: RankLike | None, request: Request) -> Target:
    """What a layout has to reach."""
    ranks = None if rank is None else resolve_ranks(layout, rank)
    if request.max_params is not None:
        least = layout.n_params((1,) * len(layout.bonds))
        if least > request.max_params:
            raise BudgetError(
                f"{layout.name} over shape {layout.shape} needs {least} entries at rank 1, but the budget allows "
                f"{request.max_params}. Allow at least {least}, or take a smaller format."
            )
    return Target(ranks, request.eps, request.max_params)


def in_words(rank: Any, eps: float | None, budget: Any) -> str:
    """The request as a report quotes it."""
    parts: Sequence[str] = [
        f"{name}={value}" for name, value in (("rank", rank), ("eps", eps), ("budget", budget)) if value is not None
    ]
    return ", ".join(parts)


def auto_takes(rank: Any, method: Any, source: Source | None) -> None:
    """Refuse what says nothing with format "auto"."""
    if rank is not None:
        raise OptionError(f'rank={rank!r} with format "auto" says nothing. Give eps= or budget=, or name a format.')
    if method != "auto":
        raise OptionError(f'method={method!r} with format "auto" says nothing. Name a format, or leave method out.')
    if source is not None:
        raise OptionError('Format "auto" tries dense arrays in memory only. Name a format, for example "tt".')
