"""What the methods for sparse arrays share: scaling, zero arrays, one computation in a safe range, the true error."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log2, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.base import Fit
from tnkit.decompose.run import error_floor
from tnkit.decompose.source_method import SourceFit, SourceMethod, SourceProblem
from tnkit.decompose.sparse_error import sparse_error
from tnkit.formats import Layout
from tnkit.linalg import energy, require_room
from tnkit.linalg.products import wide_dtype
from tnkit.solvers import DIRECT, Status, StepInfo
from tnkit.sources import SparseTensor

__all__ = ["Found", "SparseMethod", "SparseProblem", "compact", "spread"]


@dataclass(frozen=True, slots=True, eq=False)
class SparseProblem:
    """A sparse array to be decomposed.

    Attributes:
        x: without its empty slices; its values in double precision, the largest near 1; not zero.
        norm: ‖x‖.
        kept: which slices of each mode of the whole array these are, (m_k,) each.
        asked: the problem as it came, with the target, the layout, random numbers and the control.
    """

    x: SparseTensor
    norm: float
    kept: tuple[Tensor, ...]
    asked: SourceProblem

    @property
    def floor2(self) -> float:
        """The squared error that rounding leaves."""
        return (error_floor(self.asked.source.dtype, 1) / 4 * self.norm) ** 2

    @property
    def allowed2(self) -> float | None:
        """The squared error to aim at: eps less the rounding of the result; None without eps."""
        eps = self.asked.target.eps
        if eps is None:
            return None
        return max((eps * self.norm) ** 2 * (1 - 1e-6) - self.floor2, self.floor2)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a method found.

    Attributes:
        tensors: in the order of the layout's topology, in any precision.
        bound2: a proven bound of the squared error, or inf.
        status: how it ended.
        history: the steps.
    """

    tensors: tuple[Tensor, ...]
    bound2: float = inf
    status: Status = DIRECT
    history: tuple[StepInfo, ...] = ()


class SparseMethod(SourceMethod):
    """A method for sparse arrays; what is not given is zero."""

    needs: ClassVar[str] = "sparse"
    source: ClassVar[type[SparseTensor]] = SparseTensor
    deterministic: ClassVar[bool] = False

    @abstractmethod
    def find(self, problem: SparseProblem) -> Found:
        """Decompose an array that is not zero; the first tensor takes the scale."""

    def fit_source(self, problem: SourceProblem) -> SourceFit:
        """See `SourceMethod.fit_source`."""
        source = problem.source
        assert isinstance(source, SparseTensor)
        layout = problem.layout
        if source.nnz == 0:
            shapes = layout.shapes((1,) * len(layout.bonds))
            return SourceFit(Fit(tuple(source.values.new_zeros(shape) for shape in shapes), 0.0))
        # dividing by a power of 2 is exact: c·x takes the same steps
        unit = 2.0 ** round(log2(float(source.values.abs().max())))
        x = source.with_values(source.values.to(wide_dtype(source.dtype)) / unit)
        norm = sqrt(energy(x.values))
        inner, kept = compact(x)
        found = self.find(SparseProblem(inner, norm, tuple(kept), problem))
        tensors = tuple(t.to(source.dtype).contiguous() for t in spread(layout, found.tensors, kept))
        error, kind = sparse_error(inner, layout.build(_gathered(layout, tensors, kept)))
        proven = sqrt(found.bound2) / norm + error_floor(source.dtype, 1) / 4
        if kind == "bound" and proven < error:
            error = proven
        scaled = (tensors[0] * unit, *tensors[1:])
        return SourceFit(Fit(scaled, error, kind, found.status, found.history))


def compact(x: SparseTensor) -> tuple[SparseTensor, list[Tensor]]:
    """The array without its empty slices, and which slices of each mode are kept, (m_k,) each."""
    kept, columns = [], []
    for column in x.indices.unbind(1):
        rows, place = torch.unique(column, return_inverse=True)
        kept.append(rows)
        columns.append(place)
    shape = tuple(int(rows.shape[0]) for rows in kept)
    return x.with_indices(torch.stack(columns, dim=1), shape), kept


def spread(layout: Layout, tensors: Sequence[Tensor], kept: Sequence[Tensor]) -> list[Tensor]:
    """The tensors with zeros for the empty slices."""
    topology, spread = layout.topology, list(tensors)
    for mode, rows in zip(topology.output, kept, strict=True):
        (node,) = topology.nodes_of(mode)
        axis, size = topology.inputs[node].index(mode), layout.sizes[mode]
        t = spread[node]
        if t.shape[axis] < size:
            whole = [size if k == axis else n for k, n in enumerate(t.shape)]
            require_room(whole, t, "A part of the result")
            wide = t.new_zeros(whole)
            spread[node] = wide.index_copy_(axis, rows, t)
    return spread


def _gathered(layout: Layout, tensors: Sequence[Tensor], kept: Sequence[Tensor]) -> list[Tensor]:
    """The tensors for the slices that are not empty; elsewhere they are zero."""
    topology, found = layout.topology, list(tensors)
    for mode, rows in zip(topology.output, kept, strict=True):
        (node,) = topology.nodes_of(mode)
        found[node] = found[node].index_select(topology.inputs[node].index(mode), rows)
    return found
