"""Cross interpolation: a tensor network of a function of indices, from few of its entries.

Pivots are added on the edges of a tree, largest residuals first, until points that no pivot came from show an error
below eps; then the result is rounded. See `cross_run` for the course of it, `cross_state` for the interpolation,
`cross_sweep` for the pivots of an edge, `cross_search` for the whole domain, `cross_sample` for the error.

References: Oseledets & Tyrtyshnikov 2010, doi:10.1016/j.laa.2009.07.024; Savostyanov, doi:10.1016/j.laa.2014.06.006;
    Núñez Fernández et al. (tensor cross interpolation, rank-revealing LU), arXiv:2407.02454; Tindall, Stoudenmire &
    Levy (trees), arXiv:2410.03572.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.base import Fit, Problem
from tnkit.decompose.choose import choose_method
from tnkit.decompose.cross_run import CrossRun, Effort, zero_fit
from tnkit.decompose.measure import relative_error
from tnkit.decompose.run import scaled
from tnkit.decompose.source_method import SourceFit, SourceMethod, SourceProblem
from tnkit.errors import OptionError
from tnkit.registry import METHODS
from tnkit.sources import Entries, Source

__all__ = ["Cross"]

#: Arrays of at most so many entries are read whole.
WHOLE = 1024


@dataclass(frozen=True, slots=True)
class Cross(SourceMethod):
    """Cross interpolation of a function of indices, with pivots searched locally and over the whole domain.

    The error that is reported is an estimate: from points that no pivot came from, a third of them uniform, a third
    drawn with probability |t|²/‖t‖², a third by its marginals, with two standard errors added. A feature that is
    smaller than what any of the searches meets stays unseen; raise `searches` and `samples` for functions with narrow
    peaks.

    Arrays of at most 1024 entries are read whole, and decomposed by the direct method of the format.

    Attributes:
        max_evaluations: distinct entries that may be asked for.
        samples: points in a held-out sample.
        searches: starts of each search over the whole domain.
        starts: random entries from the largest of which the search on an edge starts.
        max_steps: sweeps at the most.

    Example:
        >>> import tnkit as tk
        >>> fit = tk.decompose(lambda i: 1.0 / (1 + i.sum(1)), "tt", shape=(30,) * 5, eps=1e-6, method=tk.Cross())
        >>> fit.rel_error <= 1e-6, fit.error_kind, fit.evaluations < 10_000
        (True, 'estimate', True)
    """

    max_evaluations: int = 4_000_000
    samples: int = 512
    searches: int = 8
    starts: int = 8
    max_steps: int = 80

    name: ClassVar[str] = "cross"
    formats: ClassVar[tuple[str, ...]] = ("tt", "tr", "tucker", "ht")
    needs: ClassVar[str] = "entries"
    source: ClassVar[type[Source]] = Entries
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = (
        "cross interpolation from few entries of a function, its error estimated from held-out ones"
    )

    def __post_init__(self) -> None:
        for name, least in (("max_evaluations", 1), ("samples", 16), ("searches", 1), ("starts", 1), ("max_steps", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"Cross({name}={value!r}) must be a whole number of at least {least}.")

    def fit_source(self, problem: SourceProblem) -> SourceFit:
        """See `SourceMethod.fit_source`.

        Cost:
            about Σ r m r' + n m entries over the modes, with m the rank of a mode of size n, and a few thousand more
            for the search and the estimate.
        """
        source = problem.source
        assert isinstance(source, Entries)
        fit = None
        effort = Effort(self.max_evaluations, self.samples, self.searches, self.starts, self.max_steps)
        if source.numel > WHOLE and len(source.shape) > 1:
            fit = CrossRun(effort, problem, source).fit()
        return SourceFit(_whole(problem, source.dense()) if fit is None else fit, source.evaluations)


def _whole(problem: SourceProblem, x: Tensor) -> Fit:
    """Every entry: the direct method of the format, and the true error."""
    layout = problem.layout
    safe, norm, factor = scaled(x, float(torch.linalg.vector_norm(x.to(torch.complex128))))
    if norm == 0.0:
        return zero_fit(layout, x)
    dense = Problem(safe, norm, layout, problem.spec, problem.target, problem.rng, problem.control)
    method, _ = choose_method(layout, problem.target)
    fit = method.fit(dense)
    error = relative_error(safe, layout.build(fit.tensors), norm=norm)
    tensors = (fit.tensors[0] * factor, *fit.tensors[1:])
    return replace(fit, tensors=tensors, rel_error=error, error_kind="exact")


METHODS.register(Cross.name, Cross)
