"""Build: from a chosen rank to the module, its twins where the weight is tied, and the layer's report."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.formats import Tensorized
from tnkit.nn.batches import evaluating
from tnkit.nn.choice import Choice
from tnkit.nn.layers.layer_type import layer_type_of
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.report import LayerReport
from tnkit.nn.specs import Fitted, LayerSpec
from tnkit.nn.surgery import n_bytes, n_params
from tnkit.nn.timing import race_ms
from tnkit.tensorize import Tensorization

__all__ = [
    "Built",
    "as_weight",
    "build",
    "dense_ms",
    "example_input",
    "forward_ms",
    "forwards_ms",
    "layer_report",
    "relative_error",
    "with_twins",
]


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A layer at a chosen rank.

    Attributes:
        row: of the grid.
        format: of the weight's shape, float64.
        module: made of it.
        spec: that made it.
        rank: as it counts them.
    """

    row: int
    format: Fitted
    module: FactoredModule[Any]
    spec: LayerSpec
    rank: tuple[int, ...]


def build(choice: Choice, row: int) -> Built:
    """The format at one row of the grid, and the module made of it."""
    item = choice.item
    rank = tuple(int(r) for r in choice.grid.ranks[row])
    known = choice.fits.get(row)
    spec, rank = item.spec.narrowed(choice.view, rank)
    fitted = spec.fit(choice.view, choice.weight, rank, choice.metric) if known is None else known
    module = item.recipe.build(item.layer, spec, fitted, choice.metric)
    return Built(row, as_weight(fitted, choice.view.plan), module, spec, rank)


def as_weight(fitted: Fitted, plan: Tensorization) -> Fitted:
    """The format with the weight's own shape; plans one after the other become one."""
    if not isinstance(fitted, Tensorized):
        return fitted.tensorized(plan)
    for kind, to, _ in fitted.plan.moves:
        plan = {"pad": plan.pad, "reshape": plan.reshape, "permute": plan.permute}[kind](to)
    return fitted.format.tensorized(plan)


def with_twins(model: nn.Module, choice: Choice, module: FactoredModule[Any]) -> dict[str, nn.Module]:
    """The module under its name, and for each layer with the same weight one that shares its parameters."""
    layers: dict[str, nn.Module] = {choice.item.name: module}
    for name in choice.item.tied:
        other = model.get_submodule(name)
        kind = layer_type_of(other)
        assert kind is not None
        twin = kind.empty(other, module.form, module.execution)
        for key, value in module.factors().items():
            setattr(twin, key, value if isinstance(value, nn.Parameter) else value.clone())
        bias = _twin_bias(other, choice.item.layer, module)
        if bias is not None:
            twin.bias = bias
        layers[name] = twin
    return layers


def _twin_bias(other: nn.Module, layer: nn.Module, module: FactoredModule[Any]) -> nn.Parameter | None:
    """The other layer's own bias, plus what the fit added to the first layer's."""
    if not hasattr(other, "bias"):
        return None
    own, old, new = (getattr(m, "bias", None) for m in (other, layer, module))
    added = None if new is None else new.detach() - (0 if old is None else old.detach())
    if isinstance(own, Tensor):
        return nn.Parameter(own.detach().clone() if added is None else own.detach() + added, own.requires_grad)
    return None if added is None or not bool(added.any()) else nn.Parameter(added)


def layer_report(choice: Choice, built: Built | None, *, timed: bool = False) -> LayerReport:
    """What the layer costs and loses as it was built, or as it is where that is None."""
    item, layer = choice.item, choice.item.layer
    module = None if built is None else built.module
    flops = choice.flops() if choice.seen is not None and choice.seen.shape else None
    ms_before, ms_after = _layer_ms(choice, module) if timed and module is not None else (None, None)
    now = layer if module is None else module
    return LayerReport(
        name=item.name,
        kind=type(layer).__name__,
        spec="" if built is None else type(built.spec).__name__,
        rank=() if built is None else built.rank,
        compressed=module is not None,
        reason="; ".join(_remarks(choice, module is None)),
        params_before=n_params(layer),
        params_after=n_params(now),
        bytes_before=n_bytes(layer),
        bytes_after=n_bytes(now),
        flops_before=None if flops is None else flops[1],
        flops_after=None if flops is None else flops[1] if built is None else int(flops[0][built.row]),
        ms_before=ms_before,
        ms_after=ms_after,
        rel_error=0.0 if built is None else relative_error(choice, built),
        weighted=choice.metric.inputs is not None or choice.metric.frequency is not None,
    )


def relative_error(choice: Choice, built: Built) -> float:
    """‖(W − Ŵ)G^½‖ / ‖WG^½‖ of what was built, whatever the fit gave weight to."""
    weight = choice.weight.to(torch.float64)
    wrong = choice.view.blocks(weight - built.format.to_dense().to(weight))
    energy = choice.metric.energy(choice.view.blocks(weight))
    return float((choice.metric.energy(wrong) / energy) ** 0.5) if energy > 0 else 0.0


def _remarks(choice: Choice, dense: bool) -> list[str]:
    found = []
    if dense and choice.item.spec.asked_rank is not None:
        found.append("its rank would not make it smaller")
    elif dense:
        found.append("the limits leave room for it as it is")
    if choice.item.tied:
        found.append(f"shared with {', '.join(choice.item.tied)}")
    return found


def _layer_ms(choice: Choice, module: FactoredModule[Any]) -> tuple[float | None, float | None]:
    """Milliseconds of the layer and of the module on random input of the shape that was seen."""
    if choice.seen is None or not choice.seen.shape:
        return None, None
    x = example_input(choice.weight, choice.seen.shape, choice.seen.dtype)
    before, after = forwards_ms([choice.item.layer, module], x)
    return statistics.median(before), statistics.median(after)


def dense_ms(choice: Choice) -> float | None:
    """Milliseconds of the layer as it is on random input of the shape that was seen; None where it is not known."""
    if choice.seen is None or not choice.seen.shape:
        return None
    return forward_ms(choice.item.layer, example_input(choice.weight, choice.seen.shape, choice.seen.dtype))


def example_input(weight: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random input of a shape for the layer with this weight; positions in its table where these are integers."""
    random = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=random).to(weight.device, dtype)
    return torch.randint(weight.shape[0], shape, generator=random).to(weight.device, dtype)


def forward_ms(layer: nn.Module, x: Tensor) -> float:
    """Milliseconds of the layer's own forward, without hooks."""
    return statistics.median(forwards_ms([layer], x, time_limit_s=0.05)[0])


def forwards_ms(
    layers: Sequence[nn.Module], x: Tensor, *, runs: int = 5, time_limit_s: float = 0.1
) -> list[list[float]]:
    """Milliseconds of the own forwards of layers in eval mode, which take turns; for each its rounds."""

    def call(layer: nn.Module) -> Callable[[], Any]:
        return lambda: type(layer).forward(layer, x)

    with ExitStack() as modes:
        for layer in layers:
            modes.enter_context(evaluating(layer))
        return race_ms([call(layer) for layer in layers], x.device, runs=runs, time_limit_s=time_limit_s)
