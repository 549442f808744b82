"""LayerType: what a type of layer is to the compressor. A new layer type is one new file here and one registration.

It says how its weight is read as a matrix or a kernel, which rows that multiplies and gives (for calibration), which
module takes its place, and the way back. It knows no format: `Recipe` joins it to a specification.
"""

from __future__ import annotations

import abc
from collections.abc import Hashable, Iterator
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tnkit.errors import DataError, DTypeError
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.specs.base import Execution, LayerSpec
from tnkit.nn.stats import InputStats
from tnkit.nn.views import WeightView
from tnkit.registry import LAYERS

__all__ = ["LayerType", "layer_type_of", "parameter", "require_weight", "why_not"]


class LayerType(abc.ABC):
    """One type of layer. Stateless; registered in `tnkit.registry.LAYERS`.

    Attributes:
        name: in the registry.
        dense: the layer's class, as people know it.
        module: the class of the compressed layer.
        readings: how its weight can be read: "matrix", or "kernel", "channels" and "patches".
    """

    name: ClassVar[str]
    dense: ClassVar[type[nn.Module]]
    module: ClassVar[type[FactoredModule[Any]]]
    readings: ClassVar[tuple[str, ...]]

    def fits(self, layer: nn.Module) -> bool:
        """Whether a layer is of this type, dense or compressed, and computes as it does."""
        if isinstance(layer, FactoredModule):
            return layer.kind == self.module.kind
        return isinstance(layer, self.dense) and computes_as(layer, self.dense)

    def looks_like(self, layer: nn.Module) -> bool:
        """Whether a layer is of this class, whatever it computes."""
        return isinstance(layer, self.dense)

    def objection(self, layer: nn.Module) -> str | None:
        """Why a layer of this type cannot be compressed all the same."""
        return None

    @abc.abstractmethod
    def default(self, layer: Any) -> LayerSpec | None:
        """The specification when the user gives none; None if the layer is compressed only where a rule names it."""

    @abc.abstractmethod
    def view(self, layer: Any, reading: str) -> WeightView:
        """How the weight is read as a tensor."""

    @abc.abstractmethod
    def rows_key(self, layer: Any, reading: str) -> Hashable:
        """Layers with equal keys, fed the same tensor, see the same rows."""

    @abc.abstractmethod
    def rows(self, layer: Any, reading: str, x: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
        """The rows (g, N, n) that the metric is made of, in pieces of bounded size."""

    def observe(self, layer: Any, reading: str, x: Tensor, mask: Tensor | None) -> InputStats | None:
        """What calibration keeps of an input."""
        total = None
        for rows in self.rows(layer, reading, x, mask):
            one = InputStats.of(rows)
            total = one if total is None else total + one
        return total

    @abc.abstractmethod
    def output_rows(self, layer: Any, y: Tensor, mask: Tensor | None) -> Tensor:
        """The rows (g, N, m) of an output, or of a gradient with respect to it."""

    @abc.abstractmethod
    def positions(self, layer: Any, shape: tuple[int, ...] | None) -> tuple[int, int] | None:
        """(input positions, output positions) at which factors apply for an input of `shape`; None if not known."""

    def macs(self, layer: Any) -> tuple[int, int]:
        """Multiplications of the dense layer for each input position and for each output position."""
        return 0, int(layer.weight.numel())

    @abc.abstractmethod
    def empty(self, layer: Any, form: Any, execution: Execution) -> FactoredModule[Any]:
        """The module with the layer's face and no bias, of the layer's dtype, all zeros."""

    @abc.abstractmethod
    def restore(self, module: Any) -> nn.Module:
        """The dense layer with the module's weight."""


def computes_as(layer: nn.Module, dense: type[nn.Module]) -> bool:
    """Whether a subclass still computes what its base does."""
    steps = ("forward", "_conv_forward")
    return all(
        getattr(type(layer), s, None) is getattr(dense, s, None) for s in steps
    ) and not parametrize.is_parametrized(layer)


def layer_type_of(layer: nn.Module) -> LayerType | None:
    """The type of a layer; a compressed layer counts as what it replaced."""
    return next((kind for kind in LAYERS.items().values() if kind.fits(layer)), None)


def why_not(layer: nn.Module) -> str | None:
    """Why a layer that looks compressible is none; None for compressible layers and for those that do not look so."""
    kind = layer_type_of(layer)
    if kind is not None:
        if "weight" in layer._parameters or isinstance(layer, FactoredModule):
            return kind.objection(layer)
        return "its weight is not a plain parameter (weight normalisation or pruning)"
    for other in LAYERS.items().values():
        if other.looks_like(layer):
            if parametrize.is_parametrized(layer):
                return "its weight is parametrised; remove the parametrisation first"
            return f"{type(layer).__name__} computes in its own way, not as {other.dense.__name__}"
    return None


def require_weight(layer: nn.Module, name: str) -> Tensor:
    """The weight of a layer, fit to be decomposed.

    Raises:
        DTypeError: quantised, integer or complex, or a tensor subclass.
        DataError: meta, not yet initialised, empty, NaN or infinite.
    """
    weight: Any = layer.weight
    who = f"layer {name!r} ({type(layer).__name__})"
    if nn.parameter.is_lazy(weight):
        raise DataError(f"{who} is not initialised yet. Run the model once on a batch, then compress it.")
    if not isinstance(weight, Tensor) or weight.is_meta:
        raise DataError(f"{who} has no values (meta device). Load the weights first.")
    if type(weight) not in (Tensor, nn.Parameter) or weight.is_quantized or not weight.dtype.is_floating_point:
        kind = weight.dtype if type(weight) in (Tensor, nn.Parameter) else type(weight).__name__
        raise DTypeError(
            f"{who} has a {kind} weight. Compress the floating-point model, or exclude it: rules={{{name!r}: None}}."
        )
    if weight.numel() == 0:
        raise DataError(
            f"{who} has an empty weight of shape {tuple(weight.shape)}. Exclude it: rules={{{name!r}: None}}."
        )
    bad = int((~weight.detach().isfinite()).sum())
    if bad:
        raise DataError(
            f"{who}: its weight holds {bad} NaN or infinite values. Repair them, or exclude it: "
            f"rules={{{name!r}: None}}."
        )
    plain: Tensor = weight.detach()
    return plain


def parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    """`value` as a parameter with dtype, device and requires_grad of `like`, in memory of its own."""
    data = value.detach().to(dtype=like.dtype, device=like.device, copy=True).contiguous()
    return nn.Parameter(data, requires_grad=like.requires_grad)


def feature_rows(x: Tensor, mask: Tensor | None) -> Tensor:
    """The last axis of a tensor as rows (1, N, n); masked positions are left out."""
    kept = x[mask] if mask is not None and mask.shape == x.shape[:-1] else x
    return kept.reshape(1, -1, x.shape[-1])


def n_rows(shape: tuple[int, ...] | None) -> int:
    """The number of rows of an input; 1 where no input is known."""
    return 1 if shape is None else prod(shape[:-1])


def any_requires_grad(module: nn.Module) -> bool:
    """Whether a factor of a module is trained."""
    return any(p.requires_grad for name, p in module.named_parameters(recurse=False) if name != "bias")


def with_values(dense: nn.Module, module: FactoredModule[Any], weight: Tensor) -> nn.Module:
    """A dense layer with a weight, and with the module's bias."""
    dense.weight = nn.Parameter(weight.detach().clone().contiguous(), any_requires_grad(module))
    if module.bias is not None:
        dense.bias = nn.Parameter(module.bias.detach().clone(), module.bias.requires_grad)
    return dense


def dtype_of(layer: nn.Module) -> torch.dtype:
    """Of the weight."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.dtype
