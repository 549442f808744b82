"""MatrixSpec: what low rank and channel SVD share, the truncation of a weight as a matrix in its metric."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tnkit.arrays import HALF
from tnkit.formats import LowRank, Network
from tnkit.nn.specs.base import Fitted, Floats, LayerSpec, RankGrid
from tnkit.nn.stats import Metric
from tnkit.nn.views import WeightView
from tnkit.nn.weighted import WeightedBasis, weighted_basis

__all__ = ["MatrixSpec", "dropped"]

#: Share of the plain energy that counts beside the metric, so that ranks are ordered also where the metric is singular.
UNSEEN = 1e-9


@dataclass(frozen=True, slots=True, repr=False)
class MatrixSpec(LayerSpec):
    """Low rank of the weight as a matrix (m, n), group by group.

    Attributes:
        rank: of each group's matrix.
        pivoted: hold r(m + n − r) numbers instead of r(m + n): exact, smaller, one gather slower. None: the layer
            decides (pivoted, but for half types).
    """

    rank: int | None = None
    pivoted: bool | None = None

    n_ranks: ClassVar[int] = 1

    @property
    def asked_rank(self) -> tuple[int, ...] | None:
        """The rank as a tuple."""
        return None if self.rank is None else (self.rank,)

    def grid(self, view: WeightView) -> RankGrid:
        """Ranks 1 … min(m, n)."""
        m, n = view.shape
        r = np.arange(1, min(m, n) + 1, dtype=np.int64)
        cost = view.groups * (r * (m + n - r) if self.pivoted else r * (m + n))
        at_input = view.groups * r * n if view.transposed else np.zeros_like(cost)
        return RankGrid(r[:, None], cost, at_input, cost - at_input)

    def errors(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float]:
        """Σ of the dropped S_i², over all groups."""
        return dropped(self.bases(view, weight, metric))

    def trials(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float, dict[int, Fitted]]:
        """As `errors`; with the fit where the rank is known by now, so that nothing is analysed twice."""
        bases = self.bases(view, weight, metric)
        error, energy = dropped(bases)
        row = self._known_row(view, weight)
        return error, energy, {} if row is None else {row: _truncated(bases, row + 1)}

    def _known_row(self, view: WeightView, weight: Tensor) -> int | None:
        """That of the rank that is asked for, or of the largest one within `keep`."""
        if self.rank is not None:
            return self.rank - 1 if self.rank <= min(view.shape) else None
        if self.keep is None or self.max_error is not None:
            return None
        rows = np.flatnonzero(self.grid(view).n_params <= int(self.keep * weight.numel()))
        return int(rows[-1]) if len(rows) else None

    def fit(self, view: WeightView, weight: Tensor, rank: tuple[int, ...], metric: Metric) -> Fitted:
        """A LowRank, or for several groups the network "gor,gri->goi"."""
        return _truncated(self.bases(view, weight, metric), rank[0])

    def bases(self, view: WeightView, weight: Tensor, metric: Metric) -> list[WeightedBasis]:
        """The analysis of each group's matrix."""
        blocks = enumerate(view.blocks(weight))
        return [weighted_basis(block, metric.gram(k), metric.rows(k)) for k, block in blocks]

    def resolved(self, dtype: torch.dtype) -> LayerSpec:
        """Pivoted unless the weight is of a half type."""
        return self if self.pivoted is not None else replace(self, pivoted=dtype not in HALF)


def _truncated(bases: list[WeightedBasis], rank: int) -> Fitted:
    factors = [basis.factors(rank) for basis in bases]
    if len(bases) == 1:
        return LowRank(*factors[0])
    left, right = (torch.stack(parts) for parts in zip(*factors, strict=True))
    return Network.from_equation("gor,gri->goi", (left, right))


def dropped(bases: list[WeightedBasis]) -> tuple[Floats, float]:
    """(K,) squared error of every rank, all matrices cut alike, and the whole energy."""
    energy = torch.stack([basis.s.square() for basis in bases]).sum(0)
    plain = torch.stack([basis.plain_energy() for basis in bases]).sum(0)
    energy = energy + UNSEEN * plain * (energy.sum() / plain.sum().clamp_min(1e-300))  # what calibration did not see
    tail = energy.flip(0).cumsum(0).flip(0)
    return np.append(tail[1:].cpu().numpy(), 0.0), float(tail[0])
