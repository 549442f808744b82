"""analyze: what each layer's weight and inputs are like, and what compressing it would cost; nothing is changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tnkit.errors import OptionError
from tnkit.nn.analysis import Analysis, LayerAnalysis
from tnkit.nn.batches import require_batches
from tnkit.nn.build import dense_ms
from tnkit.nn.calibrate import Calibration, collect
from tnkit.nn.choice import Choice, analysed, make_choice
from tnkit.nn.heavy_tail import heavy_tail_exponent
from tnkit.nn.layers.recipe import find_recipe
from tnkit.nn.measure import model_ms
from tnkit.nn.opening import opened
from tnkit.nn.scope import Rules, find_scope
from tnkit.nn.sensitivity import Site
from tnkit.nn.surgery import n_bytes, n_params
from tnkit.nn.weighted import weighted_basis

__all__ = ["RATIOS", "analyze"]

#: Shares of a layer's parameters at which its error is given.
RATIOS = (0.8, 0.6, 0.4, 0.2)
#: Gradients are taken on this many of the first batches.
GRADIENT_BATCHES = 8


def analyze(
    model: nn.Module,
    inputs: Iterable[Any] | None = None,
    rules: Rules | None = None,
    *,
    ratios: Sequence[float] = RATIOS,
    sensitivity: bool = True,
    measure: bool = True,
) -> Analysis:
    """Look at every layer that `compress` would have in scope; the model is not changed.

    Args:
        model: any module.
        inputs: iterable of batches as in `compress`; None looks at the weights alone.
        rules: as in `compress`: a specification decides what a layer would become, None leaves it out.
        ratios: shares of a layer's parameters, in (0, 1].
        sensitivity: whether gradients say how much the outputs feel each layer; no labels are needed.
        measure: whether layers and model are timed on the first batch.

    Returns:
        An `Analysis`: print it, or `to_json()`, `to_markdown()`, `plot()`.

    Raises:
        OptionError: nothing in scope, or a ratio out of its range.
        UnknownNameError: a rule that matches no module.
        DataError: NaN weights, no batch, or one that the model does not take.

    Cost:
        One pass over `inputs`, and three decompositions of each weight.

    Example:
        >>> import torch
        >>> from tnkit import nn as tnn
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32))
        >>> found = tnn.analyze(model, [torch.randn(100, 32)], measure=False)
        >>> [layer.name for layer in found.layers], found.layers[0].errors[0] < found.layers[0].errors[-1]
        (['0', '2'], True)
    """
    shares = tuple(float(ratio) for ratio in ratios)
    if not shares or any(not 0.0 < ratio <= 1.0 for ratio in shares):
        raise OptionError(f"analyze: ratios={shares}. Give shares of the parameters in (0, 1], such as (0.8, 0.5).")
    with opened(model) as whole:
        scope = find_scope(whole.model, rules, "analyze")
        choices = [make_choice(item) for item in scope.items]
        seen = _seen(whole.model, choices, inputs, GRADIENT_BATCHES if sensitivity else 0)
        found = [_layer(choice, seen, shares, measure=measure) for choice in choices]
    felt = sum(energy for _, energy in found if energy is not None)
    layers = tuple(
        replace(layer, sensitivity=None if energy is None or felt <= 0 else energy / felt) for layer, energy in found
    )
    ms = model_ms(model, seen.first_batch) if seen is not None and measure else None
    return Analysis(layers, shares, n_params(model), n_bytes(model), ms, dict(scope.left), _notes(layers, seen))


def _seen(model: nn.Module, choices: Sequence[Choice], inputs: Any, gradients: int) -> Calibration | None:
    if inputs is None:
        return None
    sites = {
        name: Site(layer, find_recipe(layer, choice.item.spec, name), choice.item.spec.whiten)
        for choice in choices
        for name in (choice.item.name, *choice.item.tied)
        for layer in (model.get_submodule(name),)
    }
    return collect(model, sites, require_batches(inputs, "analyze"), "analyze", gradient_batches=gradients)


def _layer(
    choice: Choice, seen: Calibration | None, ratios: tuple[float, ...], *, measure: bool
) -> tuple[LayerAnalysis, float | None]:
    """A layer, and the energy of its output as the model's outputs feel it."""
    whole = analysed(choice, seen, errors=False)
    outputs = whole.metric.outputs
    plain = analysed(choice, None if seen is None else _without_gradients(seen))
    blocks = choice.view.blocks(choice.weight.to(torch.float64)).flatten(2)
    values = torch.linalg.svdvals(blocks).flatten().sort(descending=True)[0]
    made = LayerAnalysis(
        name=choice.item.name,
        kind=type(choice.item.layer).__name__,
        spec=type(choice.item.spec).__name__,
        shape=tuple(choice.weight.shape),
        params=choice.dense_params,
        spectrum=_shares(values),
        seen_spectrum=_seen_spectrum(plain, blocks),
        stable_rank=float(values.square().sum() / values[0].square()) if float(values[0]) > 0 else 0.0,
        heavy_tail=heavy_tail_exponent(blocks.flatten(0, 1)),
        errors=tuple(_error_at(plain, ratio) for ratio in ratios),
        weighted=plain.metric.inputs is not None or plain.metric.frequency is not None,
        ms=dense_ms(plain) if measure else None,
        sensitivity=None,
    )
    return made, None if outputs is None else _felt(choice.view.blocks(choice.weight.double()), whole, outputs)


def _without_gradients(seen: Calibration) -> Calibration:
    return replace(seen, seen={name: replace(what, gradients=None) for name, what in seen.seen.items()})


def _error_at(choice: Choice, ratio: float) -> float | None:
    rows = np.flatnonzero(choice.params <= ratio * choice.dense_params)
    return float(choice.error[rows].min() ** 0.5) if len(rows) else None


def _shares(values: Tensor) -> tuple[float, ...]:
    top = float(values[0])
    return tuple((values / top).tolist()) if top > 0 else tuple(values.tolist())


def _seen_spectrum(choice: Choice, blocks: Tensor) -> tuple[float, ...]:
    """Of W G^½, where the Gram matrix is that of the rows of the matrix."""
    stats = choice.metric.inputs
    if stats is None or stats.gram.shape[-1] != blocks.shape[-1]:
        return ()
    found = [weighted_basis(block, choice.metric.gram(k)).s for k, block in enumerate(blocks)]
    return _shares(torch.cat(found).sort(descending=True)[0])


def _felt(blocks: Tensor, choice: Choice, outputs: Tensor) -> float | None:
    """tr(F W G Wᵀ) over the groups: the energy of the layer's output as the model's outputs feel it."""
    stats = choice.metric.inputs
    if stats is None:
        return None
    seen = torch.einsum("goi...,gij->goj...", blocks, stats.gram.to(blocks))
    weighed = torch.einsum("gpo,goj...->gpj...", outputs.to(blocks), seen)
    return max(float((weighed * blocks).sum()), 0.0)


def _notes(layers: Sequence[LayerAnalysis], seen: Calibration | None) -> tuple[str, ...]:
    if seen is None:
        return ("no inputs: errors are those of the weights, and nothing is timed; give inputs= for those of outputs",)
    missed = [layer.name for layer in layers if not layer.weighted]
    found = [f"no batch called {len(missed)} layer(s): {', '.join(missed[:5])}"] if missed else []
    return (*found, seen.note) if seen.note else tuple(found)
