"""Tucker2: a convolution with both channel modes truncated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tnkit.formats import Network
from tnkit.nn.conv_tucker import ConvTucker
from tnkit.nn.forms import Form, Tucker2Form
from tnkit.nn.specs.base import LAYER_SPECS, Fitted, Floats, LayerSpec, RankGrid
from tnkit.nn.stats import Metric
from tnkit.nn.views import WeightView
from tnkit.nn.weighted import RowMetric

__all__ = ["Tucker2"]


@dataclass(frozen=True, slots=True, repr=False)
class Tucker2(LayerSpec):
    """A convolution as 1×1 (i → R_i), k×k (R_i → R_o) and 1×1 (R_o → o).

    Attributes:
        rank: (R_o, R_i); None leaves it to keep, max_error or the budget.

    References:
        Kim et al. (2016), arXiv 1511.06530.

    Example:
        >>> from tnkit.nn import Tucker2
        >>> Tucker2(rank=(8, 4))
        Tucker2(rank=(8, 4))
    """

    rank: tuple[int, int] | None = None

    name: ClassVar[str] = "tucker2"
    n_ranks: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("channels",)

    @property
    def asked_rank(self) -> tuple[int, ...] | None:
        """The rank as it was given."""
        return None if self.rank is None else tuple(self.rank)

    def grid(self, view: WeightView) -> RankGrid:
        """All pairs with R_o <= R_i·Πk and R_i <= R_o·Πk."""
        o, i, k = view.shape
        r_out, r_in = (x.ravel() for x in np.meshgrid(np.arange(1, o + 1), np.arange(1, i + 1), indexing="ij"))
        fits = (r_out <= r_in * k) & (r_in <= r_out * k)
        r_out, r_in = r_out[fits].astype(np.int64), r_in[fits].astype(np.int64)
        first, core, last = view.groups * r_in * i, view.groups * r_out * r_in * k, view.groups * r_out * o
        at_input = first if k > 1 else np.zeros_like(first)  # a 1×1 kernel has its stride on the first factor
        if view.transposed:
            at_input = first + core
        cost = first + core + last
        return RankGrid(np.stack([r_out, r_in], axis=1), cost, at_input, cost - at_input)

    def errors(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float]:
        """The truncated HOSVD's error, from which HOOI only improves."""
        total, energy = None, 0.0
        for tucker, _ in self._analyses(view, weight, metric):
            error = tucker.errors()
            total = error if total is None else total + error
            energy += float(tucker.coords.square().sum())
        assert total is not None
        ranks = self.grid(view).ranks
        column = np.minimum(ranks[:, 1], total.shape[1]) - 1
        return total.cpu().numpy()[ranks[:, 0] - 1, column], energy

    def fit(self, view: WeightView, weight: Tensor, rank: tuple[int, ...], metric: Metric) -> Fitted:
        """The network "ack,oa,ci->oik" (core, output factor, input factor), with a label g where there are groups."""
        parts = []
        for tucker, rows in self._analyses(view, weight, metric):
            core, u, v = tucker.factors((rank[0], rank[1]))
            parts.append((core, rows.undo(u), v))
        if view.groups == 1:
            return Network.from_equation("ack,oa,ci->oik", parts[0])
        stacked = tuple(torch.stack(p) for p in zip(*parts, strict=True))
        return Network.from_equation("gack,goa,gci->goik", stacked)

    def _analyses(self, view: WeightView, weight: Tensor, metric: Metric) -> list[tuple[ConvTucker, RowMetric]]:
        found = []
        for k, block in enumerate(view.blocks(weight.detach().to(torch.float64))):
            rows = RowMetric.of(metric.rows(k), block)
            found.append((ConvTucker.of(rows.apply(block), metric.gram(k)), rows))
        return found

    def form(self, view: WeightView, fitted: Fitted) -> tuple[Form, Mapping[str, Tensor]]:
        """Core, output factor and input factor as kernels."""
        core, last, first = fitted.tensors()
        o, i, _ = view.shape
        r_out, r_in = core.shape[-3:-1]
        return Tucker2Form(view.groups, o, i, view.kernel, r_out, r_in), {"core": core, "last": last, "first": first}


LAYER_SPECS.register(Tucker2.name, Tucker2)
