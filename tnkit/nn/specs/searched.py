"""SearchedLayer: a matrix as whatever loses least of its outputs at each size, of several structures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tnkit.errors import OptionError
from tnkit.formats import Tensorized
from tnkit.nn.forms import Form
from tnkit.nn.specs.base import LAYER_SPECS, Fitted, Floats, LayerSpec, RankGrid
from tnkit.nn.specs.low_rank import LowRankLayer
from tnkit.nn.specs.network import NetworkLayer
from tnkit.nn.stats import Metric
from tnkit.nn.views import WeightView
from tnkit.tensorize import Tensorization

__all__ = ["Chosen", "SearchedLayer"]


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """A fit, and which candidate it is of.

    Attributes:
        fitted: what the candidate gave.
        candidate: its number.
    """

    fitted: Fitted
    candidate: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.fitted.shape

    @property
    def n_params(self) -> int:
        """Stored real numbers."""
        return self.fitted.n_params

    def tensors(self) -> tuple[Tensor, ...]:
        """The parts."""
        return self.fitted.tensors()

    def to_dense(self) -> Tensor:
        """The weight."""
        return self.fitted.to_dense()

    def tensorized(self, plan: Tensorization) -> Fitted:
        """With another shape; plans one after the other become one."""
        if not isinstance(self.fitted, Tensorized):
            return self.fitted.tensorized(plan)
        for kind, to, _ in self.fitted.plan.moves:
            plan = {"pad": plan.pad, "reshape": plan.reshape, "permute": plan.permute}[kind](to)
        return self.fitted.format.tensorized(plan)


@dataclass(frozen=True, slots=True, repr=False)
class SearchedLayer(LayerSpec):
    """A search over structures of a weight, by the error of its outputs (or of itself, without calibration).

    Every candidate is fitted at its ranks, and measured in the metric of the inputs. Which of them is taken follows
    from the size: where low rank is a candidate, no result loses more than low rank of the same size.

    Attributes:
        candidates: specifications without a rank.

    Example:
        >>> import torch
        >>> from tnkit import nn as tnn
        >>> w = torch.kron(torch.eye(8), torch.ones(8, 8)) + 0.01 * torch.eye(64)
        >>> layer = torch.nn.Linear(64, 64)
        >>> layer.weight = torch.nn.Parameter(w)
        >>> result = tnn.compress_layer(layer, tnn.SearchedLayer(keep=0.1))
        >>> result.report.rel_error < tnn.compress_layer(layer, tnn.LowRankLayer(keep=0.1)).report.rel_error
        True
    """

    candidates: tuple[LayerSpec, ...] = (
        LowRankLayer(),
        NetworkLayer("btt"),
        NetworkLayer("blast"),
        NetworkLayer("kron"),
        NetworkLayer("ttm"),
    )
    name: ClassVar[str] = "searched"
    n_ranks: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("matrix",)

    def __post_init__(self) -> None:
        """Check the candidates.

        Raises:
            OptionError: none, one that cannot read a matrix, or one with a rank of its own.
        """
        super(SearchedLayer, self).__post_init__()
        for spec in self.candidates:
            if "matrix" not in spec.reads or not spec.is_free():
                raise OptionError(f"SearchedLayer: candidate {spec!r} must take a matrix and leave its rank open.")
        if not self.candidates:
            raise OptionError("SearchedLayer needs at least one candidate, such as LowRankLayer().")

    @property
    def asked_rank(self) -> tuple[int, ...] | None:
        """None: the size decides."""
        return None

    def resolved(self, dtype: torch.dtype) -> LayerSpec:
        """Every candidate for this dtype, with the options of the search."""
        found = tuple(replace(c, whiten=self.whiten).resolved(dtype) for c in self.candidates)
        return replace(self, candidates=found)

    def grid(self, view: WeightView) -> RankGrid:
        """All rows of all candidates: (number of the candidate, row of its grid)."""
        grids = [spec.grid(view) for spec in self.candidates]
        rows = [(c + 1, k + 1) for c, grid in enumerate(grids) for k in range(len(grid.n_params))]
        return RankGrid(
            np.array(rows, dtype=np.int64),
            np.concatenate([g.n_params for g in grids]),
            np.concatenate([g.in_macs for g in grids]),
            np.concatenate([g.out_macs for g in grids]),
        )

    def errors(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float]:
        """Of all candidates; the energy is that of the first."""
        found = [spec.errors(view, weight, metric) for spec in self.candidates]
        return np.concatenate([error for error, _ in found]), found[0][1]

    def fit(self, view: WeightView, weight: Tensor, rank: tuple[int, ...], metric: Metric) -> Fitted:
        """The candidate's fit."""
        number, row = rank[0] - 1, rank[1] - 1
        spec = self.candidates[number]
        inner = tuple(int(r) for r in spec.grid(view).ranks[row])
        return Chosen(spec.fit(view, weight, inner, metric), number)

    def form(self, view: WeightView, fitted: Fitted) -> tuple[Form, Mapping[str, Tensor]]:
        """The candidate's form."""
        assert isinstance(fitted, Chosen)
        return self.candidates[fitted.candidate].form(view, fitted.fitted)


LAYER_SPECS.register(SearchedLayer.name, SearchedLayer)
