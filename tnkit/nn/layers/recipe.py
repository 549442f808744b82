"""Recipe: what joins a type of layer to a specification. A new layer type is one new file here and one registration.

A recipe says how the weight becomes a tensor (`view`), which rows it multiplies (`rows`) and gives (`output_rows`),
for calibration, how the fitted format becomes a module (`build`) and the way back (`restore`).
"""

from __future__ import annotations

import abc
from collections.abc import Hashable, Iterator
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tnkit.errors import DataError, DTypeError, OptionError
from tnkit.formats import Format
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.specs import LayerSpec
from tnkit.nn.stats import Metric
from tnkit.nn.views import WeightView
from tnkit.registry import LAYERS

__all__ = ["Recipe", "default_spec", "find_recipe", "recipes_for", "require_weight", "why_not"]


class Recipe(abc.ABC):
    """Joins a dense layer type to one specification type. Stateless; registered in `tnkit.registry.LAYERS`.

    Attributes:
        name: in the registry, "layer type.specification".
        dense: the layer type.
        spec: the specification type.
        module: the compressed layer.
    """

    name: ClassVar[str]
    dense: ClassVar[type[nn.Module]]
    spec: ClassVar[type[LayerSpec]]
    module: ClassVar[type[FactoredModule]]

    @abc.abstractmethod
    def default(self, layer: Any) -> LayerSpec | None:
        """The specification to use when the user gives none; None if another recipe suits this layer better."""

    @abc.abstractmethod
    def resolve(self, layer: Any, spec: Any) -> LayerSpec:
        """`spec` with what it leaves to the layer decided."""

    @abc.abstractmethod
    def view(self, layer: Any) -> WeightView:
        """How the weight is read as a tensor."""

    @abc.abstractmethod
    def rows_key(self, layer: Any) -> Hashable:
        """Layers with equal keys, fed the same tensor, see the same rows."""

    @abc.abstractmethod
    def rows(self, layer: Any, x: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
        """The rows (g, N, n) that the metric is made of, in pieces of bounded size."""

    @abc.abstractmethod
    def output_rows(self, layer: Any, y: Tensor, mask: Tensor | None) -> Tensor:
        """The rows (g, N, m) of an output, or of a gradient with respect to it."""

    @abc.abstractmethod
    def positions(self, layer: Any, shape: tuple[int, ...] | None) -> tuple[int, int] | None:
        """(input positions, output positions) at which factors apply for an input of `shape`; None if not known."""

    @abc.abstractmethod
    def build(self, layer: Any, spec: Any, fitted: Format, metric: Metric) -> FactoredModule:
        """The module for a fitted format; `layer` is not changed and shares nothing with it."""

    @abc.abstractmethod
    def restore(self, module: Any) -> nn.Module:
        """The dense layer with the module's weight."""


def recipes_for(layer: nn.Module) -> tuple[Recipe, ...]:
    """The recipes whose layer type this is; a compressed layer counts as what it replaced."""
    found: list[Recipe] = []
    for recipe in LAYERS.items().values():
        if isinstance(layer, recipe.module) or (isinstance(layer, recipe.dense) and _computes_as(layer, recipe.dense)):
            found.append(recipe)
    return tuple(found)


def _computes_as(layer: nn.Module, dense: type[nn.Module]) -> bool:
    """Whether a subclass still computes what its base does."""
    steps = ("forward", "_conv_forward")
    return all(
        getattr(type(layer), s, None) is getattr(dense, s, None) for s in steps
    ) and not parametrize.is_parametrized(layer)


def why_not(layer: nn.Module) -> str | None:
    """Why a layer that looks compressible is none; None for compressible layers and for those that do not look so."""
    if recipes_for(layer):
        if "weight" in layer._parameters or isinstance(layer, FactoredModule):
            return None
        return "its weight is not a plain parameter (weight normalisation or pruning)"
    for recipe in LAYERS.items().values():
        if isinstance(layer, recipe.dense):
            if parametrize.is_parametrized(layer):
                return "its weight is parametrised; remove the parametrisation first"
            return f"{type(layer).__name__} computes in its own way, not as {recipe.dense.__name__}"
    return None


def find_recipe(layer: nn.Module, spec: LayerSpec, name: str = "") -> Recipe:
    """The recipe for a layer and a specification.

    Raises:
        OptionError: the layer type has none, or none for this specification.
    """
    who = f"layer {name!r} ({type(layer).__name__})" if name else type(layer).__name__
    known = recipes_for(layer)
    for recipe in known:
        if type(spec) is recipe.spec:
            return recipe
    if known:
        fit = ", ".join(recipe.spec.__name__ for recipe in known)
        raise OptionError(f"{type(spec).__name__} does not apply to {who}. For that layer type use {fit}, or None.")
    types = ", ".join(dict.fromkeys(recipe.dense.__name__ for recipe in LAYERS.items().values()))
    why = why_not(layer)
    raise OptionError(f"{who} cannot be compressed{': ' + why if why else ''}. Layer types with a view: {types}.")


def default_spec(layer: nn.Module) -> LayerSpec | None:
    """The specification that suits a layer when the user gives none."""
    for recipe in recipes_for(layer):
        spec = recipe.default(layer)
        if spec is not None:
            return spec
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
