"""Recipe: a type of layer joined to a specification, by the way in which the one can read and the other can fit."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.errors import OptionError
from tnkit.nn.layers.layer_type import LayerType, layer_type_of, parameter, why_not
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.opening.base import opening_of
from tnkit.nn.specs.base import LAYER_SPECS, Fitted, LayerSpec
from tnkit.nn.stats import InputStats, Metric
from tnkit.nn.views import WeightView
from tnkit.registry import LAYERS

__all__ = ["Recipe", "find_recipe"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a layer is compressed.

    Attributes:
        kind: the type of the layer.
        reading: how its weight is read.
    """

    kind: LayerType
    reading: str

    def view(self, layer: nn.Module) -> WeightView:
        """The weight as a tensor."""
        return self.kind.view(layer, self.reading)

    def rows_key(self, layer: nn.Module) -> Hashable:
        """Layers with equal keys, fed the same tensor, see the same rows."""
        return self.kind.rows_key(layer, self.reading)

    def observe(self, layer: nn.Module, x: Tensor, mask: Tensor | None) -> InputStats | None:
        """What calibration keeps of an input."""
        return self.kind.observe(layer, self.reading, x, mask)

    def build(self, layer: nn.Module, spec: LayerSpec, fitted: Fitted, metric: Metric) -> FactoredModule[Any]:
        """The module for a fitted format; `layer` is not changed and shares nothing with it."""
        view, weight, bias = self.view(layer), layer.weight, getattr(layer, "bias", None)
        assert isinstance(weight, Tensor)
        form, tensors = spec.form(view, fitted)
        module = self.kind.empty(layer, form, spec.execution)
        for name in form.parameters():
            shape = getattr(module, name).shape
            setattr(module, name, parameter(tensors[name].reshape(shape), weight))
        for name in form.buffers():
            setattr(module, name, tensors[name].to(weight.device))
        extra = _centred_bias(view, weight, fitted, spec, metric)
        if isinstance(bias, Tensor):
            module.bias = parameter(bias if extra is None else bias.detach() + extra.to(bias), bias)
        elif extra is not None:
            module.bias = parameter(extra, weight)
        return module


def _centred_bias(view: WeightView, weight: Tensor, fitted: Fitted, spec: LayerSpec, metric: Metric) -> Tensor | None:
    """(W − Ŵ) μ: with the centred Gram matrix the truncated layer keeps the mean output."""
    stats = metric.inputs
    if not (getattr(spec, "centred", False) and stats is not None and stats.count):
        return None
    exact = view.blocks(weight.detach().to(torch.float64))
    near = fitted.to_dense().to(exact)
    wrong = exact - near.reshape(exact.shape)
    return torch.einsum("gmn,gn->gm", wrong, stats.mean().to(exact)).flatten()


def find_recipe(layer: nn.Module, spec: LayerSpec, name: str = "") -> Recipe:
    """The recipe for a layer and a specification.

    Raises:
        OptionError: the layer's type is not known, or cannot be read as this specification needs it.
    """
    who = f"layer {name!r} ({type(layer).__name__})" if name else type(layer).__name__
    kind = layer_type_of(layer)
    if kind is not None:
        for reading in spec.reads:
            if reading in kind.readings:
                return Recipe(kind, reading)
        known = ", ".join(s.__name__ for s in LAYER_SPECS.items().values() if set(s.reads) & set(kind.readings))
        raise OptionError(f"{type(spec).__name__} does not apply to {who}. For that layer type use {known}, or None.")
    types = ", ".join(dict.fromkeys(other.dense.__name__ for other in LAYERS.items().values()))
    why = why_not(layer)
    if opening_of(layer) is not None:
        why = "it holds several weights; compress(model, …) opens it and compresses each of them"
    raise OptionError(f"{who} cannot be compressed{': ' + why if why else ''}. Layer types with a view: {types}.")
