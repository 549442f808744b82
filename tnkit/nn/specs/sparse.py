"""SparseLayer: low rank, and a few entries that low rank does not reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tnkit.errors import OptionError
from tnkit.nn.forms import Form, SparseForm
from tnkit.nn.specs.base import LAYER_SPECS, Fitted, Floats, LayerSpec, RankGrid
from tnkit.nn.specs.matrix import dropped
from tnkit.nn.specs.planned import PlannedMatrix
from tnkit.nn.stats import Metric
from tnkit.nn.views import WeightView
from tnkit.nn.weighted import weighted_basis
from tnkit.tensorize import Tensorization

__all__ = ["LowRankSparse", "SparseLayer"]

ROUNDS = 6


@dataclass(frozen=True, slots=True, eq=False)
class LowRankSparse(PlannedMatrix):
    """B A + S, with what is asked of a fit.

    Attributes:
        left: (m, r).
        right: (r, n).
        values: entries of S.
        positions: where they stand, counted row by row.
    """

    left: Tensor
    right: Tensor
    values: Tensor
    positions: Tensor

    @property
    def n_params(self) -> int:
        """Real numbers; the positions are integers."""
        return self.left.numel() + self.right.numel() + self.values.numel()

    def tensors(self) -> tuple[Tensor, ...]:
        """Left, right, values and positions."""
        return self.left, self.right, self.values, self.positions

    def matrix(self) -> Tensor:
        """The (m, n) matrix."""
        return (self.left @ self.right).flatten().index_add(0, self.positions, self.values)


@dataclass(frozen=True, slots=True, repr=False)
class SparseLayer(LayerSpec):
    """A matrix as low rank plus sparse.

    Attributes:
        rank: of the low-rank part; None leaves it to keep, max_error or the budget.
        density: share of the entries that the sparse part holds. Its positions are stored beside them, as integers.

    References:
        Zhou and Tao, GoDec (2011); Han et al., SLTrain (2024), arXiv 2406.02214.

    Example:
        >>> from tnkit.nn import SparseLayer
        >>> SparseLayer(rank=8, density=0.02)
        SparseLayer(rank=8, density=0.02)
    """

    rank: int | None = None
    density: float = 0.01
    name: ClassVar[str] = "lowrank_sparse"
    n_ranks: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("matrix",)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            OptionError: a density that is no share.
        """
        LayerSpec.__post_init__(self)
        if not 0.0 < self.density < 1.0:
            raise OptionError(f"SparseLayer: density={self.density} is not in (0, 1). It is a share of the entries.")

    @property
    def asked_rank(self) -> tuple[int, ...] | None:
        """The rank as a tuple."""
        return None if self.rank is None else (self.rank,)

    def grid(self, view: WeightView) -> RankGrid:
        """Ranks 1 … min(m, n)."""
        m, n = view.shape
        r = np.arange(1, min(m, n) + 1, dtype=np.int64)
        cost = r * (m + n) + self._nnz(view)
        return RankGrid(r[:, None], cost, np.zeros_like(cost), cost)

    def errors(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float]:
        """Those of truncating what is left when the sparse part is taken out; fits only improve on it."""
        matrix = view.blocks(weight.detach().to(torch.float64))[0]
        at, values = self._sparse(view, matrix, max(1, min(matrix.shape) // 4), metric)
        rest = matrix.flatten().index_add(0, at, -values).reshape(matrix.shape)
        error, _ = dropped([weighted_basis(rest, metric.gram(0), metric.rows(0))])
        return error, float(weighted_basis(matrix, metric.gram(0), metric.rows(0)).s.square().sum())

    def fit(self, view: WeightView, weight: Tensor, rank: tuple[int, ...], metric: Metric) -> Fitted:
        """Low rank and sparse in turn."""
        matrix = view.blocks(weight.detach().to(torch.float64))[0]
        at, values = self._sparse(view, matrix, rank[0], metric)
        rest = matrix.flatten().index_add(0, at, -values).reshape(matrix.shape)
        left, right = weighted_basis(rest, metric.gram(0), metric.rows(0)).factors(rank[0])
        return LowRankSparse(left, right, values, at, plan=Tensorization.start(view.shape))

    def form(self, view: WeightView, fitted: Fitted) -> tuple[Form, Mapping[str, Tensor]]:
        """Two factors and the entries."""
        left, right, values, at = fitted.tensors()
        (m, n), r = view.shape, left.shape[1]
        names = {"left": left, "right": right, "values": values, "positions": at}
        return SparseForm(m, n, r, len(values)), names

    def _nnz(self, view: WeightView) -> int:
        return max(1, int(self.density * view.shape[0] * view.shape[1]))

    def _sparse(self, view: WeightView, matrix: Tensor, rank: int, metric: Metric) -> tuple[Tensor, Tensor]:
        """Positions and values of the sparse part for a rank: the entries that cost most, as their inputs see them."""
        gram = metric.gram(0)
        scale = None if gram is None else (gram if gram.ndim == 1 else gram.diagonal()).clamp_min(0).sqrt().to(matrix)
        count, s = self._nnz(view), torch.zeros_like(matrix)
        at = torch.zeros(0, dtype=torch.long, device=matrix.device)
        for _ in range(ROUNDS):
            left, right = weighted_basis(matrix - s, gram, metric.rows(0)).factors(rank)
            wrong = matrix - left @ right
            cost = wrong.abs() if scale is None else wrong.abs() * scale
            at = cost.flatten().topk(count).indices.sort().values
            s = torch.zeros_like(matrix).flatten().index_put((at,), wrong.flatten()[at]).reshape(matrix.shape)
        return at, s.flatten()[at]


LAYER_SPECS.register(SparseLayer.name, SparseLayer)
