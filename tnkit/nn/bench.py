"""bench: a compressed model beside a dense one, layer by layer: sizes, FLOPs, milliseconds, errors."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tnkit.errors import DataError, OptionError, ShapeError
from tnkit.nn.batches import evaluating, require_batches, run_batch
from tnkit.nn.build import example_input, forwards_ms
from tnkit.nn.hooks import hooked
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.measure import Before
from tnkit.nn.opening import opened
from tnkit.nn.report import LayerReport, ModelReport
from tnkit.nn.surgery import materialize, n_bytes, n_params

__all__ = ["bench"]

#: Where a layer was called: the shape and the type of its first input.
Place = tuple[tuple[int, ...], torch.dtype]


def bench(model: nn.Module, inputs: Iterable[Any], dense: nn.Module | None = None) -> ModelReport:
    """Measure a compressed model and its dense one on the first batch; nothing is changed.

    Args:
        model: compressed.
        inputs: iterable of batches as in `compress`; the first is used.
        dense: what it was made from; None: the model itself with the weights that its factors stand for.

    Returns:
        The report of `compress` on what is there: `rel_error` is that of each weight.

    Raises:
        OptionError: nothing in the model is compressed.
        ShapeError: `dense` has no such layers.
        DataError: no batch, or one that a model does not take.

    Example:
        >>> import torch
        >>> from tnkit import nn as tnn
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
        >>> small, _ = tnn.compress(model, tnn.Budget(params=0.5))
        >>> report = tnn.bench(small, [torch.ones(8, 64)], dense=model)
        >>> report.layers[0].flops_after < report.layers[0].flops_before
        True
    """
    names = {name: m for name, m in model.named_modules() if isinstance(m, FactoredModule)}
    if not names:
        raise OptionError(
            f"bench: no layer of this {type(model).__name__} is compressed. Give what tk.nn.compress returned."
        )
    batch = next(iter(require_batches(inputs, "bench")), None)
    if batch is None:
        raise DataError("bench: there is no batch. Give at least one.")
    whole = materialize(model) if dense is None else dense
    before = Before.of(whole, batch)
    with _places(model, names) as places, evaluating(model):
        run_batch(model, batch, "bench")
    with opened(whole) as parts:
        layers = [_layer(name, m, parts.model, places.get(name)) for name, m in names.items()]
    note = () if dense is not None else ("compared with the dense weights that its own factors stand for",)
    return before.report(model, layers, len(layers), note)


@contextmanager
def _places(model: nn.Module, layers: dict[str, FactoredModule[Any]]) -> Any:
    """Where each layer is called, filled while the model runs."""
    found: dict[str, Place] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
            if x is not None and not x.is_nested:
                found.setdefault(name, (tuple(x.shape), x.dtype))

        return hook

    handles = [m.register_forward_pre_hook(watch(name), with_kwargs=True) for name, m in layers.items()]
    with hooked(handles):
        yield found


def _layer(name: str, made: FactoredModule[Any], dense: nn.Module, place: Place | None) -> LayerReport:
    try:
        old: Any = dense.get_submodule(name)
    except AttributeError:
        old = None
    if old is None or tuple(getattr(old, "weight", torch.empty(0)).shape) != tuple(made.weight.shape):
        raise ShapeError(
            f"bench: the dense {type(dense).__name__} has no layer {name!r} of that shape. "
            "Give the model that this one was compressed from, or leave it out."
        )
    weight, near = old.weight.detach().double(), made.weight.detach().double()
    x = None if place is None else example_input(weight, *place)
    timed = x is not None
    before, after = (None, None) if x is None else (statistics.median(t) for t in forwards_ms([old, made], x))
    return LayerReport(
        name=name,
        kind=type(old).__name__,
        spec=made.form.kind,
        rank=made.ranks,
        compressed=True,
        reason="" if timed else "not called on this batch",
        params_before=n_params(old),
        params_after=n_params(made),
        bytes_before=n_bytes(old),
        bytes_after=n_bytes(made),
        flops_before=_flops(old, x),
        flops_after=_flops(made, x),
        ms_before=before,
        ms_after=after,
        rel_error=float((weight - near).norm() / weight.norm().clamp_min(1e-300)),
    )


def _flops(layer: nn.Module, x: Tensor | None) -> int | None:
    if x is None:
        return None
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        type(layer).forward(layer, x)
    return int(counter.get_total_flops())
