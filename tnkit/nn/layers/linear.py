"""nn.Linear: a matrix that multiplies rows."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from tnkit.nn.forms import MatrixForm, bucket
from tnkit.nn.layers.layer_type import LayerType, dtype_of, feature_rows, n_rows, with_values
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.specs import Execution, LayerSpec, LowRankLayer
from tnkit.nn.views import WeightView, matrix_view
from tnkit.registry import LAYERS

__all__ = ["FactoredLinear", "LinearType"]


class FactoredLinear(FactoredModule[MatrixForm]):
    """y = Ŵx + b in the place of nn.Linear, with its face.

    Attributes:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.

    Example:
        >>> import torch
        >>> from tnkit.nn import FactoredLinear
        >>> from tnkit.nn.forms import LowRankForm
        >>> layer = FactoredLinear(LowRankForm(4, 6, 2, "rows"), bias=False)
        >>> layer(torch.zeros(5, 6)).shape, layer.weight.shape, layer.n_factor_params()
        (torch.Size([5, 4]), torch.Size([4, 6]), 16)
    """

    kind: ClassVar[str] = "FactoredLinear"

    def __init__(
        self,
        form: MatrixForm,
        *,
        bias: bool = True,
        execution: Execution = "auto",
        dtype: torch.dtype | None = None,
    ) -> None:
        """A layer of zeros; layer types and loading fill it."""
        super().__init__(form, form.m if bias else None, execution, dtype)
        self.in_features, self.out_features = form.n, form.m

    @property
    def weight(self) -> Tensor:
        """The dense (m, n) weight."""
        return self.form.dense(self.factors())

    def forward_factored(self, x: Tensor) -> Tensor:
        """By the factors."""
        return self.form.apply(self.factors(), x, self.bias)

    def forward_materialized(self, x: Tensor) -> Tensor:
        """By the dense weight."""
        return F.linear(x, self.dense_weight(lambda: self.form.dense(self.factors())), self.bias)

    def sample_size(self, x: Tensor) -> tuple[int, ...]:
        """The number of rows, in powers of two."""
        return (bucket(prod(x.shape[:-1])),)

    def face(self) -> dict[str, Any]:
        """The form says it all."""
        return {}

    def extra_repr(self) -> str:
        """What print shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}{super().extra_repr()}"


class LinearType(LayerType):
    """nn.Linear and what computes as it does."""

    name = "linear"
    dense = nn.Linear
    module = FactoredLinear
    readings = ("matrix",)

    def default(self, layer: Any) -> LayerSpec | None:
        """Low rank, rank left open."""
        return LowRankLayer()

    def view(self, layer: Any, reading: str) -> WeightView:
        """The weight as it is."""
        return matrix_view(tuple(layer.weight.shape))

    def rows_key(self, layer: Any, reading: str) -> Hashable:
        """All linear layers see a tensor alike."""
        return "features"

    def rows(self, layer: Any, reading: str, x: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
        """The input's last axis; masked positions are left out."""
        yield feature_rows(x, mask)

    def output_rows(self, layer: Any, y: Tensor, mask: Tensor | None) -> Tensor:
        """The output's last axis; masked positions are left out."""
        return feature_rows(y, mask)

    def positions(self, layer: Any, shape: tuple[int, ...] | None) -> tuple[int, int] | None:
        """The number of rows; 1 where no input is known."""
        rows = n_rows(shape)
        return rows, rows

    def empty(self, layer: Any, form: MatrixForm, execution: Execution) -> FactoredModule[Any]:
        """FactoredLinear."""
        return FactoredLinear(form, bias=False, execution=execution, dtype=dtype_of(layer))

    def restore(self, module: FactoredLinear) -> nn.Module:
        """nn.Linear with the materialised weight."""
        weight = module.weight
        sizes = (module.in_features, module.out_features, module.bias is not None)
        dense = skip_init(nn.Linear, *sizes, device=weight.device, dtype=weight.dtype)
        return with_values(dense, module, weight)


LAYERS.register(LinearType.name, LinearType())
