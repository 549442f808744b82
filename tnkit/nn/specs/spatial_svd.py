"""SpatialSVD: a convolution as one along the first axis and one along the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tnkit.formats import Network
from tnkit.network import Topology
from tnkit.nn.forms import Form, SpatialForm
from tnkit.nn.specs.base import LAYER_SPECS, Fitted, Floats, LayerSpec, RankGrid
from tnkit.nn.specs.matrix import dropped
from tnkit.nn.stats import Metric
from tnkit.nn.views import WeightView
from tnkit.nn.weighted import WeightedBasis, weighted_basis

__all__ = ["SpatialSVD"]


@dataclass(frozen=True, slots=True, repr=False)
class SpatialSVD(LayerSpec):
    """A convolution as k×1 (i → r) with stride (s, 1), and 1×k (r → o) with stride (1, s).

    Attributes:
        rank: r of each group; None leaves it to keep, max_error or the budget.

    References:
        Jaderberg et al. (2014), arXiv 1405.3866; Tai et al. (2016), arXiv 1511.06067 (closed form).

    Example:
        >>> from tnkit.nn import SpatialSVD
        >>> SpatialSVD(rank=6)
        SpatialSVD(rank=6)
    """

    rank: int | None = None
    name: ClassVar[str] = "spatial_svd"
    n_ranks: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("kernel",)

    @property
    def asked_rank(self) -> tuple[int, ...] | None:
        """The rank as a tuple."""
        return None if self.rank is None else (self.rank,)

    def grid(self, view: WeightView) -> RankGrid:
        """Ranks 1 … min(i·k_0, o·k_1…)."""
        o, i, h, *rest = view.shape
        r = np.arange(1, min(o * prod(rest), i * h) + 1, dtype=np.int64)
        first, last = view.groups * r * i * h, view.groups * r * o * prod(rest)
        return RankGrid(r[:, None], first + last, first, last)  # the first is strided along one axis only

    def errors(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float]:
        """Σ of the dropped S_i², over all groups."""
        return dropped(self._bases(view, weight, metric))

    def fit(self, view: WeightView, weight: Tensor, rank: tuple[int, ...], metric: Metric) -> Fitted:
        """The network of the two kernels, (o, r, k_1…) and (r, i, k_0)."""
        o, i, h, *rest = view.shape
        parts = [basis.factors(rank[0]) for basis in self._bases(view, weight, metric)]
        lasts = [b.reshape(o, *rest, -1).movedim(-1, 1) for b, _ in parts]
        firsts = [a.reshape(-1, i, h) for _, a in parts]
        axes = tuple(f"k{k + 1}" for k in range(len(rest)))
        graph = Topology((("o", "r", *axes), ("r", "i", "k0")), ("o", "i", "k0", *axes))
        if view.groups == 1:
            return Network.from_equation(graph, (lasts[0], firsts[0]))
        many = Topology(tuple(("g", *labels) for labels in graph.inputs), ("g", *graph.output))
        return Network.from_equation(many, (torch.stack(lasts), torch.stack(firsts)))

    def form(self, view: WeightView, fitted: Fitted) -> tuple[Form, Mapping[str, Tensor]]:
        """Two kernels."""
        last, first = fitted.tensors()
        o, i = view.shape[:2]
        return SpatialForm(view.groups, o, i, view.kernel, first.shape[-3]), {"first": first, "last": last}

    def _bases(self, view: WeightView, weight: Tensor, metric: Metric) -> list[WeightedBasis]:
        """The analysis of each group's (o·k_1…, i·k_0) matrix."""
        o, i, h, *rest = view.shape
        found = []
        for k, block in enumerate(view.blocks(weight)):
            matrix = block.reshape(o, i, h, prod(rest)).permute(0, 3, 1, 2).reshape(o * prod(rest), i * h)
            found.append(weighted_basis(matrix, _spread(metric.gram(k), h), _spread(metric.rows(k), prod(rest))))
        return found


def _spread(gram: Tensor | None, times: int) -> Tensor | None:
    """Gram ⊗ identity: the same metric at every position of the kernel."""
    if gram is None:
        return None
    return torch.kron(gram.contiguous(), torch.eye(times, dtype=gram.dtype, device=gram.device))


LAYER_SPECS.register(SpatialSVD.name, SpatialSVD)
