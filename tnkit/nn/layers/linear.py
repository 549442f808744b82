"""nn.Linear as low rank: two factors, or the pivoted form with r(m + n − r) numbers."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from math import prod
from typing import Any, ClassVar, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from tnkit.arrays import HALF
from tnkit.formats import Format
from tnkit.nn.layers.module import FactoredModule, bucket, parameter
from tnkit.nn.layers.recipe import Recipe
from tnkit.nn.pivot import pivot_rows
from tnkit.nn.specs import Execution, LayerSpec, LowRankLayer
from tnkit.nn.stats import InputStats, Metric
from tnkit.nn.views import WeightView, matrix_view
from tnkit.registry import LAYERS

__all__ = ["FactoredLinear", "LinearLowRank"]

Pivots: TypeAlias = Literal["none", "rows", "columns"]


class FactoredLinear(FactoredModule):
    """y = B(Ax) + b in the place of nn.Linear, with its face.

    With `pivots="rows"` B is P [I; C] and only C is held; with "columns" A is [I C] P. Either is exact.

    Attributes:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        rank: r.
        left: (m, r), or C (m − r, r) with row pivots.
        right: (r, n), or C (r, n − r) with column pivots.
        bias: (m,) or None.
        order: positions of the pivots and the others (an integer buffer), with pivots only.

    Example:
        >>> import torch
        >>> from tnkit.nn import FactoredLinear
        >>> layer = FactoredLinear(6, 4, rank=2, pivots="rows", bias=False)
        >>> layer(torch.zeros(5, 6)).shape, layer.weight.shape, layer.n_factor_params()
        (torch.Size([5, 4]), torch.Size([4, 6]), 16)
    """

    kind: ClassVar[str] = "FactoredLinear"
    order: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        bias: bool = True,
        pivots: Pivots = "none",
        execution: Execution = "auto",
        dtype: torch.dtype | None = None,
    ) -> None:
        """A layer of zeros; `LinearLowRank.build` and loading fill it."""
        super().__init__(execution)
        self.in_features, self.out_features, self.rank, self.pivots = in_features, out_features, rank, pivots
        rows = out_features - rank if pivots == "rows" else out_features
        columns = in_features - rank if pivots == "columns" else in_features
        self.left = nn.Parameter(torch.zeros(rows, rank, dtype=dtype))
        self.right = nn.Parameter(torch.zeros(rank, columns, dtype=dtype))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_features, dtype=dtype)) if bias else None)
        if pivots != "none":
            self.register_buffer("order", torch.arange(out_features if pivots == "rows" else in_features))

    @property
    def weight(self) -> Tensor:
        """The dense (m, n) weight."""
        if self.pivots == "rows":
            return torch.cat([self.right, self.left @ self.right]).index_select(0, self.order)
        if self.pivots == "columns":
            return torch.cat([self.left, self.left @ self.right], dim=1).index_select(1, self.order.argsort())
        return self.left @ self.right

    def forward_factored(self, x: Tensor) -> Tensor:
        """By the factors: r(m + n) or r(m + n − r) multiplications for each row."""
        if self.pivots == "rows":
            z = F.linear(x, self.right)
            y = torch.cat([z, F.linear(z, self.left)], dim=-1).index_select(-1, self.order)
            return y if self.bias is None else y + self.bias
        if self.pivots == "columns":
            pivots, others = x.index_select(-1, self.order).split([self.rank, self.in_features - self.rank], dim=-1)
            return F.linear(pivots + F.linear(others, self.right), self.left, self.bias)
        return F.linear(F.linear(x, self.right), self.left, self.bias)

    def forward_materialized(self, x: Tensor) -> Tensor:
        """By the dense weight."""
        return F.linear(x, self.weight, self.bias)

    def sample_size(self, x: Tensor) -> tuple[int, ...]:
        """The number of rows, in powers of two."""
        return (bucket(prod(x.shape[:-1])),)

    def config(self) -> dict[str, Any]:
        """The structure."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "rank": self.rank,
            "bias": self.bias is not None,
            "pivots": self.pivots,
            "execution": self.execution,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], dtype: torch.dtype) -> Self:
        """A layer of zeros of that structure."""
        return cls(**config, dtype=dtype)

    def extra_repr(self) -> str:
        """What print shows."""
        pivots = "" if self.pivots == "none" else f", pivots={self.pivots}"
        shape = f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"
        return f"{shape}, bias={self.bias is not None}{pivots}, execution={self.execution}"


class LinearLowRank(Recipe):
    """nn.Linear to FactoredLinear."""

    name = "linear.lowrank"
    dense = nn.Linear
    spec = LowRankLayer
    module = FactoredLinear

    def default(self, layer: nn.Linear) -> LayerSpec | None:
        """Low rank, rank left open."""
        return LowRankLayer()

    def resolve(self, layer: nn.Linear, spec: LowRankLayer) -> LayerSpec:
        """Pivoted unless the weight is of a half type."""
        return spec if spec.pivoted is not None else replace(spec, pivoted=layer.weight.dtype not in HALF)

    def view(self, layer: nn.Linear) -> WeightView:
        """The weight as it is."""
        return matrix_view(tuple(layer.weight.shape))

    def rows_key(self, layer: nn.Linear) -> Hashable:
        """All linear layers see a tensor alike."""
        return "features"

    def rows(self, layer: nn.Linear, x: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
        """The input's last axis; masked positions are left out."""
        kept = x[mask] if mask is not None and mask.shape == x.shape[:-1] else x
        yield kept.reshape(1, -1, x.shape[-1])

    def output_rows(self, layer: nn.Linear, y: Tensor, mask: Tensor | None) -> Tensor:
        """The output's last axis; masked positions are left out."""
        return next(self.rows(layer, y, mask))

    def positions(self, layer: nn.Linear, shape: tuple[int, ...] | None) -> tuple[int, int] | None:
        """The number of rows; 1 where no input is known."""
        rows = 1 if shape is None else prod(shape[:-1])
        return rows, rows

    def build(self, layer: nn.Linear, spec: LowRankLayer, fitted: Format, metric: Metric) -> FactoredModule:
        """Two factors, or pivots on the smaller side."""
        left, right = fitted.tensors()
        weight, rank = layer.weight, left.shape[1]
        m, n = weight.shape
        pivots: Pivots = "none" if not spec.pivoted else "rows" if m <= n else "columns"
        extra = _centred_bias(layer, spec, left, right, metric.inputs)
        module = FactoredLinear(n, m, rank, bias=False, pivots=pivots, execution=spec.execution, dtype=weight.dtype)
        if pivots == "rows":
            rows, others, c = pivot_rows(left)
            left, right = c, left[rows] @ right
            module.order = torch.cat([rows, others]).argsort()
        elif pivots == "columns":
            columns, others, c = pivot_rows(right.mT)
            left, right = left @ right[:, columns], c.mT
            module.order = torch.cat([columns, others])
        module.left, module.right = parameter(left, weight), parameter(right, weight)
        if layer.bias is not None:
            module.bias = parameter(
                layer.bias if extra is None else layer.bias.detach() + extra.to(layer.bias), layer.bias
            )
        elif extra is not None:
            module.bias = parameter(extra, weight)
        return module

    def restore(self, module: FactoredLinear) -> nn.Module:
        """nn.Linear with the materialised weight."""
        weight = module.weight.detach()
        sizes = (module.in_features, module.out_features, module.bias is not None)
        dense: nn.Linear = skip_init(nn.Linear, *sizes, device=weight.device, dtype=weight.dtype)
        dense.weight = nn.Parameter(weight.clone(), module.left.requires_grad)
        if module.bias is not None:
            dense.bias = nn.Parameter(module.bias.detach().clone(), module.bias.requires_grad)
        return dense


def _centred_bias(
    layer: nn.Linear, spec: LowRankLayer, left: Tensor, right: Tensor, stats: InputStats | None
) -> Tensor | None:
    """(W − BA) μ: with the centred Gram the truncated layer keeps the mean output."""
    if not (spec.centred and stats is not None and stats.count):
        return None
    mu = stats.mean()[0].to(left)
    return layer.weight.detach().to(left) @ mu - left @ (right @ mu)


LAYERS.register(LinearLowRank.name, LinearLowRank())
