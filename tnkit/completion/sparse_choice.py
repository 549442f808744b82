"""The automatic choice for many coordinates of an array that is too large to be made dense.

There are few entries to each position then, so that short fits to a random part of them tell nothing. CP is started
from pairs of entries (`tnkit.completion.coordinates`), which sees all of them; where that tells little, the best format
by least squares is the rival, by held-out entries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from tnkit.completion.base import CompletionFit, CompletionProblem
from tnkit.completion.coordinates import CoordinateCP
from tnkit.completion.observations import Observations
from tnkit.formats import CPSpec, FormatSpec
from tnkit.solvers import INTERRUPTED, TIME_LIMIT

__all__ = ["SparseChoice", "from_coordinates", "looks_sparse"]

#: Entries of the whole array, and share observed, from which on it is this kind; observed entries at the least.
WHOLE, SHARE, FEW = 2**24, 0.01, 5_000
#: From so many observed entries on, a fit that tells anything is taken without a rival; of fewer, one as near as this.
MANY, NEAR = 500_000, 0.5


@dataclass(frozen=True, slots=True, eq=False)
class SparseChoice:
    """The method, the format and the fit; whether a rival is to be tried; why."""

    method: CoordinateCP
    spec: FormatSpec
    fit: CompletionFit
    settled: bool
    why: str


def looks_sparse(obs: Observations) -> bool:
    """Whether few entries of a very large real array are observed."""
    large = prod(obs.shape) >= WHOLE and obs.fraction <= SHARE and obs.n >= FEW
    return large and obs.ndim >= 2 and not obs.values.is_complex()


def from_coordinates(problem: CompletionProblem) -> SparseChoice:
    """CP from pairs of entries.

    Args:
        problem: its layout does not count.
    """
    spec, method = CPSpec(), CoordinateCP()
    fit = method.fit(replace(problem, layout=spec.layout(problem.observations.shape), ranks=None))
    ended = fit.status in (INTERRUPTED, TIME_LIMIT)
    settled = ended or (fit.status.ok and (problem.observations.n >= MANY or (fit.heldout_error or 1.0) < NEAR))
    told = "not measured" if fit.heldout_error is None else f"{fit.heldout_error:.2g}"
    return SparseChoice(
        method, spec, fit, settled, f"many coordinates of a very large array; held-out errors: CP {told}"
    )
