"""`explain`: what `decompose` would do, or why a search found what it did."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from tnkit.api.request import FormatLike, auto_takes, request_of, target_of
from tnkit.arrays import ArrayLike
from tnkit.decompose import as_method, methods_for
from tnkit.formats import Budget, RankLike, Tensorized, as_spec
from tnkit.search import SearchResult
from tnkit.sources import as_source

__all__ = ["Explanation", "explain"]


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
    request = request_of(source or x, rank=rank, eps=eps, budget=budget)
    if isinstance(format, str) and format == "auto":
        auto_takes(rank, method, source)
        why = "tries every named format and useful unfolding, direct methods first, and keeps the smallest that fits"
        return Explanation("auto", "portfolio", why, (), (), prod(request.shape))
    layout = as_spec(format).layout(request.shape)
    target = target_of(layout, rank, request)
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
