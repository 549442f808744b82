"""Layer specifications: what a layer is to become. Frozen values; the ranks may be left to a budget.

A specification knows which ranks there are and what each costs (`grid`), what each loses (`errors`), how to make the
format at one of them (`fit`), and which form that has in a module (`form`). It knows no layer type: it says as what it
reads a weight. A new one is one file here and one registration.

Example:
    >>> from tnkit.nn.specs import LowRankLayer, Tucker2
    >>> LowRankLayer(rank=8), Tucker2(keep=0.5).keep
    (LowRankLayer(rank=8), 0.5)
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tnkit.errors import OptionError, RankError
from tnkit.nn.forms import Form
from tnkit.nn.stats import InputStats, Metric
from tnkit.nn.views import WeightView
from tnkit.registry import Registry
from tnkit.tensorize import Tensorization

__all__ = ["EXECUTIONS", "LAYER_SPECS", "Execution", "Fitted", "Floats", "Ints", "LayerSpec", "RankGrid"]

Execution: TypeAlias = Literal["factored", "materialized", "auto"]
EXECUTIONS = ("factored", "materialized", "auto")
Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

#: Specifications by name.
LAYER_SPECS: Registry[type[LayerSpec]] = Registry("layer specification")


class Fitted(Protocol):
    """What a fit gives: a `Format`, or what answers the same questions."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the dense tensor."""

    @property
    def n_params(self) -> int:
        """Stored real numbers."""

    def tensors(self) -> tuple[Tensor, ...]:
        """The parts."""

    def to_dense(self) -> Tensor:
        """The dense tensor."""

    def tensorized(self, plan: Tensorization) -> Fitted:
        """The same with the shape from which a plan leads to this one."""


@dataclass(frozen=True, slots=True, eq=False)
class RankGrid:
    """Every rank that a weight admits, and what it costs.

    Attributes:
        ranks: (K, p) ranks, one row for each choice.
        n_params: (K,) parameters of the factors, all groups together.
        in_macs: (K,) multiplications for each position of the input.
        out_macs: (K,) multiplications for each position of the output.
    """

    ranks: Ints
    n_params: Ints
    in_macs: Ints
    out_macs: Ints

    def index(self, rank: tuple[int, ...], who: str = "this layer") -> int:
        """The row of a rank.

        Raises:
            RankError: there is no such rank; the message gives the largest.
        """
        comparable = len(rank) == self.ranks.shape[1]
        found = np.flatnonzero((self.ranks == np.asarray(rank)).all(axis=1)) if comparable else np.empty(0, dtype=int)
        if len(found) == 0:
            top = tuple(int(r) for r in self.ranks.max(axis=0))
            raise RankError(
                f"rank {rank} is not admissible for {who}. Use {len(top)} rank(s) of 1 … {top}, each at most the "
                "product of what it is joined to, or give keep= or max_error= instead."
            )
        return int(found[0])


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LayerSpec(abc.ABC):
    """Base of all layer specifications.

    Attributes:
        keep: share of the layer's weight parameters that may be used, in (0, 1]; None leaves it to the budget.
        max_error: largest relative error, in the metric of the inputs where there is one.
        whiten: use the inputs' Gram matrix when there is one.
        execution: how the module computes; "auto" goes by measured time.
    """

    #: In `LAYER_SPECS`; how many ranks there are (0: that depends on the weight); as what a weight is read, best first.
    name: ClassVar[str]
    n_ranks: ClassVar[int]
    reads: ClassVar[tuple[str, ...]]

    keep: float | None = None
    max_error: float | None = None
    whiten: bool = True
    execution: Execution = "auto"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            OptionError: an option out of its range, or rank together with keep or max_error.
            RankError: a rank that is not a positive int.
        """
        who = type(self).__name__
        if self.keep is not None and not 0.0 < self.keep <= 1.0:
            raise OptionError(
                f"{who}: keep={self.keep} is not in (0, 1]. It is the share of weight parameters that stays."
            )
        if self.max_error is not None and not 0.0 <= self.max_error < 1.0:
            raise OptionError(f"{who}: max_error={self.max_error} is not in [0, 1). It is a relative error.")
        if self.execution not in EXECUTIONS:
            raise OptionError(f"{who}: execution={self.execution!r}. Use one of {', '.join(EXECUTIONS)}.")
        rank = self.asked_rank
        if rank is None:
            return
        count = self.n_ranks or len(rank)
        if any(not isinstance(r, int) or isinstance(r, bool) or r < 1 for r in rank) or len(rank) != count:
            raise RankError(f"{who}: rank={rank} is not {count} positive int(s). Use 1 or more.")
        if self.keep is not None or self.max_error is not None:
            raise OptionError(f"{who}: give rank, or keep and max_error, not both; rank={rank} fixes them.")

    @property
    @abc.abstractmethod
    def asked_rank(self) -> tuple[int, ...] | None:
        """The rank that was given, as a tuple."""

    @abc.abstractmethod
    def grid(self, view: WeightView) -> RankGrid:
        """Every admissible rank and its cost; the shape alone decides."""

    @abc.abstractmethod
    def errors(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float]:
        """(K,) squared error of each rank of the grid, and the energy they are relative to, in the metric."""

    def trials(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float, dict[int, Fitted]]:
        """What `errors` gives, and the fits that were made on the way and may be wanted, by row of the grid."""
        return *self.errors(view, weight, metric), {}

    @abc.abstractmethod
    def fit(self, view: WeightView, weight: Tensor, rank: tuple[int, ...], metric: Metric) -> Fitted:
        """The format at `rank`; float64."""

    @abc.abstractmethod
    def form(self, view: WeightView, fitted: Fitted) -> tuple[Form, Mapping[str, Tensor]]:
        """What a fitted format is in a module, and the tensors of its parameters and buffers by name."""

    def narrowed(self, view: WeightView, rank: tuple[int, ...]) -> tuple[LayerSpec, tuple[int, ...]]:
        """The specification that a rank of the grid belongs to, and that rank as it counts it: most are their own."""
        return self, rank

    @property
    def chooses(self) -> bool:
        """Whether a part of the calibration that is kept apart helps it to choose."""
        return False

    def confirmed(
        self, view: WeightView, weight: Tensor, row: int, metric: Metric, error: Floats, allowed: Ints
    ) -> int:
        """The row of the grid to take where a budget has chosen one: most keep to it.

        Args:
            view: how the weight is read.
            weight: dense.
            row: that was chosen.
            metric: in which fits are best.
            error: (K,) of each row.
            allowed: rows that may be taken in its place.
        """
        return row

    def resolved(self, dtype: torch.dtype) -> LayerSpec:
        """The specification with what it leaves to the layer decided, for weights of a dtype."""
        return self

    def row(self, grid: RankGrid, who: str) -> int:
        """The row of the grid that `rank` means."""
        assert self.asked_rank is not None
        return grid.index(self.asked_rank, who)

    def inputs(self, stats: InputStats | None) -> InputStats | None:
        """The moments of the inputs that the fit uses, of those that were seen."""
        return stats if self.whiten else None

    def is_free(self) -> bool:
        """Whether the rank is left to a budget."""
        return self.asked_rank is None and self.keep is None and self.max_error is None

    def __repr__(self) -> str:
        """The options that differ from the defaults."""
        given = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        order = sorted(given, key=lambda text: not text.startswith("rank"))
        return f"{type(self).__name__}({', '.join(order)})"
