"""Methods for sources: arrays that are not a dense tensor in memory; from a source and a spec to a report."""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from tnkit.decompose.base import Fit, Method, Problem, Target
from tnkit.decompose.choose import as_method
from tnkit.decompose.run import report_of
from tnkit.formats import FormatSpec, Layout
from tnkit.report import FitReport
from tnkit.solvers import Control
from tnkit.sources import Source

__all__ = ["SourceFit", "SourceMethod", "SourceProblem", "run_source"]


@dataclass(frozen=True, slots=True, eq=False)
class SourceProblem:
    """A decomposition of a source.

    Attributes:
        source: the array.
        layout: the format over its shape; never tensorized.
        spec: where the layout came from.
        target: what is asked.
        rng: random numbers.
        control: deadline and progress.
    """

    source: Source
    layout: Layout
    spec: FormatSpec
    target: Target
    rng: torch.Generator
    control: Control

    @property
    def max_ranks(self) -> tuple[int, ...]:
        """Upper limits of the ranks: those asked for, or what the shape admits."""
        return self.layout.caps if self.target.ranks is None else self.target.ranks


@dataclass(frozen=True, slots=True, eq=False)
class SourceFit:
    """What a method for sources gives.

    Attributes:
        fit: tensors, error and status; the error is always given, and its kind says how far it can be trusted.
        evaluations: entries that were asked of a function, or None.
    """

    fit: Fit
    evaluations: int | None = None


class SourceMethod(Method):
    """A method that needs no dense tensor in memory.

    Class attributes:
        source: the class of sources that it takes.
    """

    source: ClassVar[type[Source]]

    @abstractmethod
    def fit_source(self, problem: SourceProblem) -> SourceFit:
        """Decompose a source. A zero array, and values whose squares leave the dtype's range, are its own care."""

    def suits(self, layout: Layout) -> bool:
        """Sources are not reshaped."""
        return layout.tensorization is None

    def fit(self, problem: Problem) -> Fit:
        """See `Method.fit`: the tensor is taken as a source."""
        p = problem
        source = self.source.from_dense(p.x)
        return self.fit_source(SourceProblem(source, p.layout, p.spec, p.target, p.rng, p.control)).fit


def run_source(
    source: Source,
    spec: FormatSpec,
    layout: Layout,
    target: Target,
    *,
    method: Any = "auto",
    rng: torch.Generator,
    control: Control,
    asked: str = "",
) -> FitReport:
    """Decompose a source.

    Args:
        source: the array.
        spec: the structure.
        layout: `spec.layout(source.shape)`.
        target: what is asked, in entries.
        method: "auto", a name or a config.
        rng: random numbers.
        control: deadline and progress.
        asked: the target in words, for the report.
    """
    begun = time.perf_counter()
    chosen, why = as_method(method, layout, target, needs=source.kind)
    assert isinstance(chosen, SourceMethod)
    done = chosen.fit_source(SourceProblem(source, layout, spec, target, rng, control))
    value = layout.build(done.fit.tensors)
    return report_of(value, done.fit, target, chosen, why, begun, asked, evaluations=done.evaluations)
