"""The Conv1D of Hugging Face's GPT-2: a linear layer that stores its weight as (in, out).

transformers is not imported: where such a layer is there, it has been imported already.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tnkit.nn.forms import MatrixForm
from tnkit.nn.layers.layer_type import dtype_of, with_values
from tnkit.nn.layers.linear import FactoredLinear, LinearType
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.specs import Execution
from tnkit.nn.views import WeightView, matrix_view
from tnkit.registry import LAYERS

__all__ = ["Conv1DType", "FactoredConv1D"]

HOME = "transformers.pytorch_utils"


class FactoredConv1D(FactoredLinear):
    """y = Ŵx + b with the face of transformers' Conv1D: `weight` is (in, out).

    Attributes:
        nx: size of the last axis of the input.
        nf: size of the last axis of the output.
    """

    kind: ClassVar[str] = "FactoredConv1D"

    def __init__(
        self,
        form: MatrixForm,
        *,
        bias: bool = True,
        execution: Execution = "auto",
        dtype: torch.dtype | None = None,
    ) -> None:
        """A layer of zeros; layer types and loading fill it."""
        super().__init__(form, bias=bias, execution=execution, dtype=dtype)
        self.nx, self.nf = form.n, form.m

    @property
    def weight(self) -> Tensor:
        """The dense (in, out) weight."""
        return self.form.dense(self.factors()).mT


class Conv1DType(LinearType):
    """transformers.pytorch_utils.Conv1D."""

    name = "hf_conv1d"
    module = FactoredConv1D

    def fits(self, layer: nn.Module) -> bool:
        """By where the class comes from, and that it computes as there."""
        if isinstance(layer, FactoredConv1D):
            return True
        origin = _origin(type(layer))
        return origin is not None and type(layer).forward is origin.forward

    def looks_like(self, layer: nn.Module) -> bool:
        """By where the class comes from."""
        return _origin(type(layer)) is not None

    def view(self, layer: Any, reading: str) -> WeightView:
        """The transpose of the weight."""
        return matrix_view(tuple(layer.weight.shape), transposed=True)

    def empty(self, layer: Any, form: MatrixForm, execution: Execution) -> FactoredModule[Any]:
        """FactoredConv1D."""
        return FactoredConv1D(form, bias=False, execution=execution, dtype=dtype_of(layer))

    def restore(self, module: FactoredLinear) -> nn.Module:
        """Transformers' layer again; nn.Linear in a process that has not imported transformers."""
        original = getattr(sys.modules.get(HOME), "Conv1D", None)
        if original is None or module.bias is None:
            return super().restore(_as_linear(module))
        weight = module.weight
        with torch.random.fork_rng(devices=[]):  # it draws random values that are not needed
            dense = original(1, 1).to(device=weight.device, dtype=weight.dtype)
        dense.nx, dense.nf = module.in_features, module.out_features
        return with_values(dense, module, weight)


def _as_linear(module: FactoredLinear) -> FactoredLinear:
    twin = FactoredLinear(module.form, bias=False, execution=module.execution)
    for name in (*module._parameters, *module._buffers):
        setattr(twin, name, getattr(module, name))
    return twin


def _origin(kind: type) -> type[nn.Module] | None:
    return next((c for c in kind.__mro__ if c.__name__ == "Conv1D" and c.__module__ == HOME), None)


LAYERS.register(Conv1DType.name, Conv1DType())
