"""CommonRows: the rows that matter most as they are, the others by low rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tnkit.nn.forms import CommonRowsForm, Form
from tnkit.nn.specs.base import LAYER_SPECS, Fitted, Floats, LayerSpec, RankGrid
from tnkit.nn.specs.matrix import dropped
from tnkit.nn.specs.planned import PlannedMatrix
from tnkit.nn.stats import Metric
from tnkit.nn.views import WeightView
from tnkit.nn.weighted import WeightedBasis, weighted_basis
from tnkit.tensorize import Tensorization

__all__ = ["CommonRows", "RowsAndFactors"]

#: How many counts of held rows are tried, and the largest as a share of all.
COUNTS, MOST = 8, 0.4


@dataclass(frozen=True, slots=True, eq=False)
class RowsAndFactors(PlannedMatrix):
    """Some rows, and B A for the others, with what is asked of a fit.

    Attributes:
        rows: (c, n).
        left: (m − c, r).
        right: (r, n).
        order: (m,) where each row stands among the held ones and then the others.
    """

    rows: Tensor
    left: Tensor
    right: Tensor
    order: Tensor

    @property
    def n_params(self) -> int:
        """Real numbers; the order is of integers."""
        return self.rows.numel() + self.left.numel() + self.right.numel()

    def tensors(self) -> tuple[Tensor, ...]:
        """Rows, left, right and order."""
        return self.rows, self.left, self.right, self.order

    def matrix(self) -> Tensor:
        """The (m, n) matrix."""
        return torch.cat([self.rows, self.left @ self.right]).index_select(0, self.order)


@dataclass(frozen=True, slots=True, repr=False)
class CommonRows(LayerSpec):
    """A table of words: those that are looked up most stay as they are, the others share a low-rank basis.

    Which rows matter is their share of the energy in the metric: how often they are looked up, how long they are, and
    how much the model's outputs feel them. How many are held is chosen together with the rank of the others.

    Attributes:
        rank: (held rows, rank of the others); None leaves both to keep, max_error or the budget.

    References:
        Chen et al., GroupReduce (2018), arXiv 1806.06950 (low rank by groups of word frequency).

    Example:
        >>> from tnkit.nn import CommonRows
        >>> CommonRows(keep=0.5)
        CommonRows(keep=0.5)
    """

    rank: tuple[int, int] | None = None

    name: ClassVar[str] = "common_rows"
    n_ranks: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("matrix",)

    @property
    def asked_rank(self) -> tuple[int, ...] | None:
        """The rank as it is."""
        return self.rank

    def grid(self, view: WeightView) -> RankGrid:
        """Every rank for some counts of held rows; for the asked count, where one is asked for."""
        m, n = view.shape
        top = max(1, int(MOST * m))
        counts = [self.rank[0]] if self.rank else np.unique(np.geomspace(max(1, m // 256), top, COUNTS).astype(int))
        pairs = [(int(c), r) for c in counts if c < m for r in range(1, min(m - int(c), n) + 1)]
        ranks = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        c, r = ranks[:, 0], ranks[:, 1]
        cost = c * n + r * (m - c + n)
        return RankGrid(ranks, cost, np.zeros_like(cost), cost)

    def errors(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float]:
        """What truncation drops of the rows that are not held."""
        matrix = view.blocks(weight.detach().to(torch.float64))[0]
        order, found = self._order(matrix, metric), []
        for count in np.unique(self.grid(view).ranks[:, 0]):
            error, _ = dropped([self._basis(matrix, order[int(count) :], metric)])
            found.append(error)
        return np.concatenate(found), metric.felt(matrix[None])

    def fit(self, view: WeightView, weight: Tensor, rank: tuple[int, ...], metric: Metric) -> Fitted:
        """Rows and factors."""
        matrix = view.blocks(weight.detach().to(torch.float64))[0]
        order, (count, r) = self._order(matrix, metric), rank
        left, right = self._basis(matrix, order[count:], metric).factors(r)
        plan = Tensorization.start(view.shape)
        return RowsAndFactors(matrix[order[:count]], left, right, order.argsort(), plan=plan)

    def form(self, view: WeightView, fitted: Fitted) -> tuple[Form, Mapping[str, Tensor]]:
        """The parts as they are."""
        rows, left, right, order = fitted.tensors()
        m, n = view.shape
        form = CommonRowsForm(m, n, len(rows), left.shape[1])
        return form, {"rows": rows, "left": left, "right": right, "order": order}

    def _order(self, matrix: Tensor, metric: Metric) -> Tensor:
        """Rows by their energy in the metric, most first."""
        gram, rows = metric.gram(0), metric.rows(0)
        seen = matrix if gram is None else matrix @ gram.to(matrix)
        energy = (matrix * seen).sum(1)
        if rows is not None:
            energy = energy * (rows if rows.ndim == 1 else rows.diagonal()).to(matrix)
        return energy.argsort(descending=True, stable=True)

    def _basis(self, matrix: Tensor, rest: Tensor, metric: Metric) -> WeightedBasis:
        """The analysis of some of the rows."""
        rows = metric.rows(0)
        part = None if rows is None else rows[rest] if rows.ndim == 1 else rows[rest][:, rest]
        return weighted_basis(matrix[rest], metric.gram(0), part)


LAYER_SPECS.register(CommonRows.name, CommonRows)
