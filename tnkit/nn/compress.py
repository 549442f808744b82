"""compress and compress_layer: from dense layers to factored ones, under a budget, with a report.

Nothing is changed before everything is known: scope and costs are checked first, then the model is calibrated, then the
ranks are chosen and all layers built; only then does a copy, or with inplace=True the model itself, get them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tnkit.errors import OptionError
from tnkit.formats import Budget, as_budget
from tnkit.nn.batches import require_batches
from tnkit.nn.build import build, layer_report
from tnkit.nn.calibrate import Calibration, Seen, collect
from tnkit.nn.choice import Choice, analysed, make_choice, require_fit, with_errors
from tnkit.nn.faster import confirmed
from tnkit.nn.hooks import carry_over
from tnkit.nn.layers.layer_type import require_weight
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.layers.recipe import find_recipe
from tnkit.nn.measure import Before, EvalFn, score_of
from tnkit.nn.opening import opened
from tnkit.nn.outputs import Outputs, require_outputs
from tnkit.nn.plan import Allocation, Outcome, Plan, require_sizes
from tnkit.nn.report import LayerReport, ModelReport
from tnkit.nn.scope import Item, Rules, Scope, find_scope
from tnkit.nn.sensitivity import Site
from tnkit.nn.sequential import corrected, is_little_work
from tnkit.nn.specs import AnyOf, Fitted, Ints, LayerSpec, LowRankLayer
from tnkit.nn.stats import InputStats
from tnkit.nn.surgery import n_bytes, n_params, replaced, swap_
from tnkit.tensorize import Tensorization

__all__ = ["LayerResult", "compress", "compress_layer"]

#: Gradients are taken on this many of the first batches.
GRADIENT_BATCHES = 16
#: One batch of so many is kept apart where formats are chosen at a given size.
ASIDE = 4


@dataclass(frozen=True, slots=True, eq=False)
class LayerResult:
    """One layer, step by step: weight -> (plan) tensor -> (decomposition) format -> (rebuild) module.

    Attributes:
        plan: how the weight became the tensor that was decomposed.
        format: what it was decomposed into; its shape and dense value are those of the weight.
        module: the layer that takes its place.
        report: sizes and error.
        spec: the specification as it was carried out.
    """

    plan: Tensorization
    format: Fitted
    module: FactoredModule[Any]
    report: LayerReport
    spec: LayerSpec


def compress_layer(layer: nn.Module, spec: LayerSpec, gram: Tensor | InputStats | None = None) -> LayerResult:
    """Compress one layer; each step can be looked at.

    Args:
        layer: of a type that has a view (Linear, Conv2d and subclasses that compute as they do), or a compressed one.
        spec: a layer specification with a rank, keep or max_error.
        gram: XᵀX of its inputs, (n, n) or (groups, n, n), or what `calibrate` gives for it; None for an unweighted fit.

    Returns:
        The plan, the format, the module and a report. `layer` is not changed and shares nothing with them.

    Raises:
        OptionError: no view for this layer type, a specification of another type, or one that leaves the rank open.
        RankError: a rank that the weight does not admit.
        BudgetError: keep or max_error that no rank meets.
        ShapeError: a Gram matrix that does not fit.
        DataError: NaN or infinite weights or Gram matrix, or weights without values.
        DTypeError: weights that are not plain floating point.

    Example:
        >>> import torch
        >>> from tnkit import nn as tnn
        >>> result = tnn.compress_layer(torch.nn.Conv2d(8, 16, 3), tnn.Tucker2(rank=(6, 4)))
        >>> print(result.plan)
        (16, 8, 3, 3) -> reshape (16, 8, 9)
        >>> result.format.shape, result.format.n_params, result.module.n_factor_params()
        ((16, 8, 3, 3), 344, 344)
    """
    if not isinstance(spec, LayerSpec):
        raise OptionError(
            f"compress_layer: spec is {spec!r}. Give a layer specification such as tk.nn.LowRankLayer(rank=8)."
        )
    recipe = find_recipe(layer, spec)
    resolved = spec.resolved(require_weight(layer, type(layer).__name__).dtype)
    if resolved.is_free():
        raise OptionError(
            f"compress_layer: {spec!r} leaves the rank open. "
            "Give rank=, keep= or max_error=, or use compress with a budget."
        )
    choice = make_choice(Item("", layer, recipe, resolved))
    stats = None if gram is None else require_fit(InputStats.from_gram(gram), choice)
    if stats is None:
        choice = with_errors(choice, None)
    elif stats.counts_rows:
        choice = with_errors(choice, Seen(None, (), torch.float64, table=stats))
    else:
        choice = with_errors(choice, Seen(stats, (), torch.float64))
    row = choice.fixed_row()
    assert row is not None
    built = build(choice, row)
    return LayerResult(choice.view.plan, built.format, built.module, layer_report(choice, built), resolved)


def compress(
    model: nn.Module,
    target: Budget | int | float | None,
    calib: Iterable[Any] | None = None,
    rules: Rules | None = None,
    eval_fn: EvalFn | None = None,
    inplace: bool = False,
    *,
    allocation: Allocation = "greedy",
    sensitivity: bool = True,
    sequential: int | None = None,
    outputs: Outputs = "auto",
    only_faster: bool = False,
    measure: bool = True,
    method: Literal["auto", "search"] = "auto",
) -> tuple[nn.Module, ModelReport]:
    """Compress the layers of a model under a budget.

    Args:
        model: any module.
        target: limits; a bare number is `Budget(params=…)`. Under params, bytes and flops an int is a count and a float
            a fraction of the layers in scope. `max_error` bounds each layer's relative error. `max_drop` is of
            `eval_fn`'s value: the smallest model within it is sought, in steps of 5 %. Under `latency_ms`, of
            the first batch, layers are timed at several sizes and time is shared out like parameters, to where it gains
            most; layers that are not measured faster stay dense.
            None where every rule fixes its layers.
        calib: iterable of batches (a tensor, a tuple of arguments or a Mapping of keyword arguments each); the fit is
            then weighted by what the layers' inputs are. None fits the weights alone.
        rules: module name (itself and all below), glob or "re:pattern" to a layer specification, or to None to leave it
            dense; the first match wins. Other layers get their type's default.
        eval_fn: the model's quality, higher is better; reported before and after, and needed for `max_drop`.
        inplace: change the model itself; it is changed at the very end, or not at all.
        allocation: "greedy" by gain per cost, or "uniform", the same share for each layer.
        sensitivity: weigh errors by how much the model's outputs feel them, from gradients on the first batches (no
            labels are needed). Not under `max_error`, which bounds unweighted errors.
        sequential: passes over `calib` in which layers are fitted again, to what the dense ones give for the inputs
            that they really get (see `tnkit.nn.sequential`); one that makes held-out batches worse is undone. One is
            enough, unless layers are called in another order than they depend on each other. None where `calib` is an
            iterator, which can be gone through only once, nor under `max_error`. None: one pass where that is little
            work (small models) and there is more than one batch, otherwise none.
        outputs: what of the model's outputs counts: "values", "logits" (the probabilities that these stand for), or
            "auto": logits where they are called so, or are as many as a table has rows.
        only_faster: time the layers on input of the shape that was seen first, and leave those dense, or make them
            smaller, that would not be faster by a twentieth; what is taken is timed twice. Needs `calib`. Ranks then
            depend on the machine.
        method: "search" tries several structures for each layer that would be of low rank (see `AnyOf`), and
            takes what loses least at the size it gets; minutes for a large model.
        measure: time the layers and the model, and run the first batch for the error of the outputs.

    Returns:
        (model, report): the compressed copy, or the model itself with inplace=True.

    Raises:
        OptionError: no bound, nothing in scope, or options that do not fit together.
        BudgetError: a limit that cannot be met, or above what the dense layers take.
        UnknownNameError: a rule that matches no module.
        DataError: NaN weights, no calibration batch, or one that the model does not take.
        DTypeError: quantised weights in scope.

    Cost:
        One pass over `calib`, and an eigendecomposition or SVD for each layer, twice; for each sequential pass as much
        as a forward pass of the model over `calib` for each layer, and one more fit.

    Example:
        >>> import torch
        >>> from tnkit import nn as tnn
        >>> model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32))
        >>> small, report = tnn.compress(model, tnn.Budget(params=0.5), calib=[torch.eye(32)])
        >>> report.kept <= 0.5, type(model[0]).__name__, type(small[0]).__name__
        (True, 'Linear', 'FactoredLinear')
    """
    budget = as_budget(target)
    _check_options(model, budget, calib, eval_fn, allocation, only_faster)
    require_outputs(outputs, "compress")
    if sequential is not None and sequential < 0:
        raise OptionError(f"compress: sequential={sequential} is negative. Use 0 for none, or a number of passes.")
    if method not in ("auto", "search"):
        raise OptionError(f"compress: method={method!r}. Use 'auto' or 'search'.")
    with opened(model, root=not inplace) as whole:
        scope = _checked_scope(whole.model, budget, rules, inplace, searched if method == "search" else _same)
        choices = tuple(make_choice(item) for item in scope.items)
        require_sizes(choices, budget)
        felt = sensitivity and budget.max_error is None and all(c.item.spec.max_error is None for c in choices)
        found_in = _calibrated(whole.model, choices, calib, GRADIENT_BATCHES if felt else 0, outputs)
        choices = tuple(analysed(choice, found_in) for choice in choices)
        score = None if eval_fn is None else score_of(eval_fn, whole.model)
        timed = measure and found_in is not None

        def planned(allowed: tuple[Ints, ...] | None) -> Outcome:
            return Plan(whole.model, choices, budget, allocation, found_in, eval_fn, score, timed, allowed).search()

        found = confirmed(planned, choices) if only_faster else planned(None)
        bounded = budget.max_error is not None or any(c.item.spec.max_error is not None for c in choices)
        if found_in is not None and calib is not None and iter(calib) is not calib and not bounded:
            sweeps = int(found_in.n_batches > 1 and is_little_work(choices)) if sequential is None else sequential
            found = corrected(whole.model, choices, found, calib, found_in.n_batches, sweeps, outputs)
        left = [_left_report(whole.model, name, reason) for name, reason in scope.left.items()]
        open_layers = dict(whole.keep(found.layers))
        made = None if inplace else replaced(whole.model if "" in open_layers else model, found.layers)
    before = Before.of(model, found_in.first_batch if found_in is not None and measure else None)
    if made is None:
        made = swap_(model, _together(open_layers, found.layers))
    report = before.report(made, [*found.reports, *left], len(found.reports), _notes(choices, found_in))
    after = score_of(eval_fn, made) if eval_fn is not None and found.score is None else found.score
    return made, replace(report, score_before=score, score_after=after)


def _together(open_layers: dict[str, nn.Module], layers: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Open layers with their new parts in them, and the layers that are in none of these."""
    outside = {}
    for name, new in layers.items():
        parent, _, child = name.rpartition(".")
        if parent in open_layers:
            whole = open_layers[parent]
            setattr(whole, child, carry_over(whole.get_submodule(child), new))
        else:
            outside[name] = new
    return {**open_layers, **outside}


def _check_options(
    model: nn.Module, budget: Budget, calib: Any, eval_fn: EvalFn | None, allocation: str, only_faster: bool
) -> None:
    if not isinstance(model, nn.Module):
        raise OptionError(f"compress: model is a {type(model).__name__}; give a torch.nn.Module.")
    if allocation not in ("greedy", "uniform"):
        raise OptionError(f"compress: allocation={allocation!r}. Use 'greedy' or 'uniform'.")
    if calib is not None:
        require_batches(calib, "compress")
    if budget.max_drop is not None and eval_fn is None:
        raise OptionError(
            f"compress: max_drop={budget.max_drop} needs eval_fn=, "
            "a function of the model whose value may drop by that."
        )
    if only_faster and calib is None:
        raise OptionError("compress: only_faster=True times layers on input as calibration sees it; give calib=.")
    if budget.latency_ms is not None and calib is None:
        raise OptionError(
            f"compress: latency_ms={budget.latency_ms} is measured on the first calibration batch; give calib=."
        )
    if eval_fn is not None and not callable(eval_fn):
        raise OptionError(f"compress: eval_fn={eval_fn!r} is not callable. Give a function from the model to a number.")


def searched(spec: LayerSpec) -> LayerSpec:
    """A search in place of low rank."""
    return AnyOf() if isinstance(spec, LowRankLayer) else spec


def _same(spec: LayerSpec) -> LayerSpec:
    return spec


def _checked_scope(
    model: nn.Module, budget: Budget, rules: Rules | None, inplace: bool, default: Callable[[LayerSpec], LayerSpec]
) -> Scope:
    scope = find_scope(model, rules, default=default)
    free = [item for item in scope.items if item.spec.is_free()]
    if free and budget == Budget():
        raise OptionError(
            f"compress: the target has no bound, and {len(free)} layer(s) such as {free[0].name!r} "
            "have no rank, keep or max_error of their own. Give for example target=tk.nn.Budget(params=0.5)."
        )
    if inplace and any(item.name == "" for item in scope.items):
        raise OptionError(
            f"compress: the model is itself a {type(model).__name__} layer; it cannot be replaced in place. "
            "Use inplace=False."
        )
    return scope


def _calibrated(
    model: nn.Module, choices: tuple[Choice, ...], calib: Iterable[Any] | None, gradients: int, outputs: Outputs
) -> Calibration | None:
    if calib is None:
        return None
    sites: dict[str, Site] = {}
    for choice in choices:
        for name in (choice.item.name, *choice.item.tied):
            layer, spec = model.get_submodule(name), choice.item.spec
            sites[name] = Site(layer, find_recipe(layer, spec, name), spec.whiten)
    aside = ASIDE if any(choice.item.spec.chooses for choice in choices) else 0
    return collect(model, sites, calib, "compress", gradient_batches=gradients, outputs=outputs, aside=aside)


def _notes(choices: tuple[Choice, ...], calibration: Calibration | None) -> list[str]:
    if calibration is None:
        return ["no calibration data: the weights alone were fitted; calib= gives far better models at equal size"]
    missed = [c.item.name for c in choices if c.seen is None]
    names = ", ".join(missed[:5]) + (" …" if len(missed) > 5 else "")
    found = (
        [f"no batch called {len(missed)} layer(s) as modules, so their fit is unweighted: {names}"] if missed else []
    )
    return [*found, calibration.note] if calibration.note else found


def _left_report(model: nn.Module, name: str, reason: str) -> LayerReport:
    layer = model.get_submodule(name)
    size, storage = n_params(layer), n_bytes(layer)
    return LayerReport(name, type(layer).__name__, "", (), False, reason, size, size, storage, storage)
