"""compress and compress_layer: from dense layers to factored ones, under a budget, with a report.

Nothing is changed before everything is known: scope and costs are checked first, then the model is calibrated, then the
ranks are chosen and all layers built; only then does a copy, or with inplace=True the model itself, get them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from tnkit.errors import BudgetError, OptionError, ShapeError
from tnkit.formats import Budget, Format
from tnkit.formats.budget import as_budget
from tnkit.nn.allocate import Ladder, allocate, allocate_uniform
from tnkit.nn.batches import evaluating, output_tensors, require_batches, run_batch
from tnkit.nn.calibrate import Calibration, Seen, Site, collect
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.layers.recipe import Recipe, find_recipe, require_weight
from tnkit.nn.report import LayerReport, ModelReport
from tnkit.nn.scope import Item, Rules, Scope, find_scope
from tnkit.nn.specs import LayerSpec, RankGrid
from tnkit.nn.stats import InputStats
from tnkit.nn.surgery import n_bytes, n_params, replaced, swap_
from tnkit.nn.timing import measure_ms
from tnkit.nn.views import WeightView
from tnkit.tensorize import Tensorization

__all__ = ["LayerResult", "compress", "compress_layer"]

Allocation: TypeAlias = Literal["greedy", "uniform"]
EvalFn: TypeAlias = Callable[[nn.Module], float]
#: Shares of the parameters that are tried under max_drop and latency_ms.
SHARES = tuple(round(1.0 - 0.05 * k, 2) for k in range(1, 20))


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
    format: Format
    module: FactoredModule
    report: LayerReport
    spec: LayerSpec


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """A layer's admissible ranks and what they cost; `seen` and `error` once it is calibrated."""

    item: Item
    view: WeightView
    grid: RankGrid
    dense_params: int
    extra: int
    seen: Seen | None = None
    error: Any = None

    @property
    def weight(self) -> Tensor:
        found: Tensor = self.item.layer.weight.detach()
        return found

    @property
    def params(self) -> Any:
        return self.grid.n_params + self.extra


def compress_layer(layer: nn.Module, spec: LayerSpec, gram: Tensor | InputStats | None = None) -> LayerResult:
    """Compress one layer; each step can be looked at.

    Args:
        layer: a layer whose type has a view (Linear, Conv2d and subclasses that compute as they do), or a compressed one.
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
    require_weight(layer, type(layer).__name__)
    resolved = recipe.resolve(layer, spec)
    if resolved.is_free():
        raise OptionError(
            f"compress_layer: {spec!r} leaves the rank open. Give rank=, keep= or max_error=, or use compress with a budget."
        )
    choice = _choice(Item("", layer, recipe, resolved))
    stats = None if gram is None else _fitting(InputStats.from_gram(gram), choice)
    choice = replace(choice, seen=Seen(stats, (), torch.float64) if stats is not None else None)
    choice = replace(choice, error=_relative_errors(choice))
    row = _fixed_row(choice)
    assert row is not None
    fitted, module = _built(choice, row)
    report = _layer_report(choice, row, module, example=None)
    return LayerResult(choice.view.plan, fitted, module, report, resolved)


def compress(
    model: nn.Module,
    target: Budget | int | float | None,
    calib: Iterable[Any] | None = None,
    rules: Rules | None = None,
    eval_fn: EvalFn | None = None,
    inplace: bool = False,
    *,
    allocation: Allocation = "greedy",
    measure: bool = True,
) -> tuple[nn.Module, ModelReport]:
    """Compress the layers of a model under a budget.

    Args:
        model: any module.
        target: limits; a bare number is `Budget(params=…)`. Under params, bytes and flops an int is a count and a float a
            fraction of the layers in scope. `max_error` bounds each layer's relative error; `max_drop` is of `eval_fn`'s
            value, and the smallest model within it is sought; under `latency_ms` the largest model that is fast enough on
            the first batch, and layers that are not measured faster stay dense. None where every rule fixes its layers.
        calib: iterable of batches (a tensor, a tuple of arguments or a Mapping of keyword arguments each); the fit is then
            weighted by what the layers' inputs are. None fits the weights alone.
        rules: module name (itself and all below), glob or "re:pattern" to a layer specification, or to None to leave it
            dense; the first match wins. Other layers get their type's default.
        eval_fn: the model's quality, higher is better; reported before and after, and needed for `max_drop`.
        inplace: change the model itself; it is changed at the very end, or not at all.
        allocation: "greedy" by gain per cost, or "uniform", the same share for each layer.
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
        One pass over `calib`, and an eigendecomposition or SVD for each layer, twice.

    Example:
        >>> import torch
        >>> from tnkit import nn as tnn
        >>> model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32))
        >>> small, report = tnn.compress(model, tnn.Budget(params=0.5), calib=[torch.eye(32)])
        >>> report.kept <= 0.5, type(model[0]).__name__, type(small[0]).__name__
        (True, 'Linear', 'FactoredLinear')
    """
    budget = as_budget(target)
    scope = _checked_scope(model, budget, calib, rules, eval_fn, inplace, allocation)
    choices = [_choice(item) for item in scope.items]
    _require_least(choices, budget)
    calibration = None if calib is None else _calibrated(model, choices, calib)
    choices = [_analysed(choice, calibration) for choice in choices]
    example = None if calibration is None or not measure else calibration.first_batch
    score_before = None if eval_fn is None else _score(eval_fn, model)
    plan = _Plan(model, choices, budget, allocation, calibration, eval_fn, score_before)
    layers, reports, score_after = plan.search()
    before = _Before.of(model, example)
    made = swap_(model, layers) if inplace else replaced(model, layers)
    report = _model_report(before, made, choices, reports, scope, calibration, example)
    if eval_fn is not None and score_after is None:
        score_after = _score(eval_fn, made)
    return made, replace(report, score_before=score_before, score_after=score_after)


# --- checks before any work ------------------------------------------------------------------------------------------


def _checked_scope(
    model: nn.Module,
    budget: Budget,
    calib: Any,
    rules: Rules | None,
    eval_fn: EvalFn | None,
    inplace: bool,
    allocation: str,
) -> Scope:
    if not isinstance(model, nn.Module):
        raise OptionError(f"compress: model is a {type(model).__name__}; give a torch.nn.Module.")
    if allocation not in ("greedy", "uniform"):
        raise OptionError(f"compress: allocation={allocation!r}. Use 'greedy' or 'uniform'.")
    if calib is not None:
        require_batches(calib, "compress")
    if budget.max_drop is not None and eval_fn is None:
        raise OptionError(
            f"compress: max_drop={budget.max_drop} needs eval_fn=, a function of the model whose value may drop by that."
        )
    if budget.latency_ms is not None and calib is None:
        raise OptionError(
            f"compress: latency_ms={budget.latency_ms} is measured on the first calibration batch; give calib=."
        )
    if eval_fn is not None and not callable(eval_fn):
        raise OptionError(f"compress: eval_fn={eval_fn!r} is not callable. Give a function from the model to a number.")
    scope = find_scope(model, rules)
    free = [item for item in scope.items if item.spec.is_free()]
    if free and budget == Budget():
        raise OptionError(
            f"compress: the target has no bound, and {len(free)} layer(s) such as {free[0].name!r} have no rank, keep or "
            "max_error of their own. Give for example target=tk.nn.Budget(params=0.5)."
        )
    if inplace and any(item.name == "" for item in scope.items):
        raise OptionError(
            f"compress: the model is itself a {type(model).__name__} layer; it cannot be replaced in place. Use inplace=False."
        )
    return scope


def _choice(item: Item) -> _Choice:
    view = item.recipe.view(item.layer)
    grid = item.spec.grid(view)
    own = n_params(item.layer)
    bias = getattr(item.layer, "bias", None)
    adds_bias = bool(getattr(item.spec, "centred", False)) and bias is None
    extra = view.plan.shape[0] if adds_bias else 0 if bias is None else bias.numel()
    return _Choice(item, view, grid, own, extra)


def _require_least(choices: list[_Choice], budget: Budget) -> None:
    """Refuse size limits that cannot be met whatever the data, or that exceed the dense layers."""
    for unit in ("params", "bytes"):
        limit = getattr(budget, unit)
        if limit is None:
            continue
        scale = [c.weight.element_size() if unit == "bytes" else 1 for c in choices]
        dense = sum(c.dense_params * s for c, s in zip(choices, scale, strict=True))
        asked = _count(limit, dense)
        if asked > dense:
            raise BudgetError(
                f"compress: Budget({unit}={limit}) is {asked:,} {unit}, more than the {dense:,} that the {len(choices)} layer(s) in "
                f"scope take. An int is a count and a float a fraction of the layers in scope: give at most {dense:,} or 1.0."
            )
        least = sum(min(int(_fixed_cost(c)), c.dense_params) * s for c, s in zip(choices, scale, strict=True))
        if asked < least:
            raise BudgetError(
                f"compress: Budget({unit}={limit}) is {asked:,} {unit}, but the {len(choices)} layer(s) in scope take at least "
                f"{least:,} of {dense:,} ({least / dense:.1%}). Give {least:,} or more, or loosen the rules."
            )


def _fixed_cost(choice: _Choice) -> int:
    rank = choice.item.spec.asked_rank
    return int(choice.params.min()) if rank is None else int(choice.params[choice.grid.index(rank)])


def _count(limit: int | float, whole: int) -> int:
    return limit if isinstance(limit, int) else int(limit * whole)


# --- analysis --------------------------------------------------------------------------------------------------------


def _calibrated(model: nn.Module, choices: list[_Choice], calib: Iterable[Any]) -> Calibration:
    sites: dict[str, Site] = {}
    for choice in choices:
        for name in (choice.item.name, *choice.item.tied):
            sites[name] = Site(model.get_submodule(name), choice.item.recipe, choice.item.spec.whiten)
    return collect(model, sites, calib, "compress")


def _analysed(choice: _Choice, calibration: Calibration | None) -> _Choice:
    if calibration is not None:
        found = [calibration.seen[n] for n in (choice.item.name, *choice.item.tied) if n in calibration.seen]
        moments = [seen.stats for seen in found if seen.stats is not None]
        if found:
            stats = moments[0] if moments else None
            for more in moments[1:]:
                stats = more if stats is None else stats + more
            choice = replace(choice, seen=replace(found[0], stats=stats))
    return replace(choice, error=_relative_errors(choice))


def _stats(choice: _Choice) -> InputStats | None:
    return None if choice.seen is None or not choice.item.spec.whiten else choice.seen.stats


def _relative_errors(choice: _Choice) -> Any:
    error, energy = choice.item.spec.errors(choice.view, choice.weight, _stats(choice))
    return error / energy if energy > 0 else np.zeros_like(error)


def _fitting(stats: InputStats, choice: _Choice) -> InputStats:
    g, n = stats.gram.shape[:2]
    width = choice.view.shape[1]
    if (g, n) != (choice.view.groups, width):
        layer = type(choice.item.layer).__name__
        raise ShapeError(
            f"compress_layer: a Gram matrix for {g} group(s) of {n} does not fit {choice.item.spec!r} of this {layer}, which "
            f"takes {choice.view.groups} group(s) of {width}. Use what calibrate gives with the same specification in its rules."
        )
    return stats


def _fixed_row(choice: _Choice) -> int | None:
    """The row of the grid that the specification itself decides, or None if it leaves it to the budget.

    Raises:
        RankError: a rank that is not admissible.
        BudgetError: no rank keeps to keep and max_error.
    """
    spec, grid = choice.item.spec, choice.grid
    if spec.asked_rank is not None:
        return grid.index(spec.asked_rank)
    if spec.keep is None and spec.max_error is None:
        return None
    numel = choice.weight.numel()
    limit = numel if spec.keep is None else int(spec.keep * numel)
    rows = np.flatnonzero(grid.n_params <= (limit if spec.keep is not None else grid.n_params.max()))
    if len(rows) == 0:
        raise BudgetError(
            f"{spec!r} on layer {choice.item.name!r}: keep={spec.keep} of {numel:,} is {limit:,} parameters, but the smallest "
            f"rank takes {int(grid.n_params.min()):,}. Use keep >= {int(grid.n_params.min()) / numel:.4f}, or rank=."
        )
    if spec.max_error is None:
        return int(rows[np.lexsort((grid.n_params[rows], choice.error[rows]))[0]])
    good = rows[choice.error[rows] <= spec.max_error**2]
    if len(good) == 0:
        raise BudgetError(
            f"{spec!r} on layer {choice.item.name!r}: within keep={spec.keep} the relative error is at least "
            f"{float(choice.error[rows].min()) ** 0.5:.4g}, above max_error={spec.max_error}. Loosen one of them."
        )
    return int(good[np.lexsort((choice.error[good], grid.n_params[good]))[0]])


# --- the choice of ranks ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Everything that decides the ranks."""

    model: nn.Module
    choices: list[_Choice]
    budget: Budget
    allocation: Allocation
    calibration: Calibration | None
    eval_fn: EvalFn | None
    score_before: float | None

    def search(self) -> tuple[dict[str, nn.Module], list[LayerReport], float | None]:
        """The layers to put in, a report for each choice, and the score if it was measured on the way."""
        if self.budget.latency_ms is not None:
            return self._fast_enough(self.budget.latency_ms)
        if self.budget.max_drop is not None:
            return self._smallest_within(self.budget.max_drop)
        return (*self.layers(None), None)

    def layers(self, share: float | None, guard: bool = False) -> tuple[dict[str, nn.Module], list[LayerReport]]:
        """Layers and reports when at most this share of the parameters is allowed besides the budget."""
        built: dict[str, nn.Module] = {}
        reports: list[LayerReport] = []
        for choice, row in zip(self.choices, self.rows(share), strict=True):
            module = None if row < 0 else _built(choice, row)[1]
            report = _layer_report(choice, row, module, example=self.calibration)
            slower = (
                guard
                and report.ms_after is not None
                and report.ms_before is not None
                and report.ms_after >= report.ms_before
            )
            if slower or (module is not None and n_params(module) >= choice.dense_params):
                why = (
                    f"not measured faster ({report.ms_before:.3g} -> {report.ms_after:.3g} ms)"
                    if slower
                    else "would not be smaller"
                )
                module, report = None, replace(_layer_report(choice, -1, None, self.calibration), reason=why)
            if module is not None:
                built.update(_with_tied(self.model, choice, module))
            reports.append(report)
        return built, reports

    def rows(self, share: float | None) -> list[int]:
        """The row of each layer's grid, or −1 for dense."""
        resources = self._resources(share)
        fixed = [_fixed_row(c) for c in self.choices]
        if not resources:
            ladders = self._ladders([c.params for c in self.choices], [c.dense_params for c in self.choices], fixed)
            return [int(ladder.choice[0]) for ladder in ladders]
        if len(resources) == 1:
            unit, costs, dense, limit = resources[0]
            return self._spend(self._ladders(costs, dense, fixed), limit, unit)
        return self._spend_jointly(resources, fixed)

    def _spend(self, ladders: list[Ladder], limit: int, unit: str) -> list[int]:
        spend = allocate if self.allocation == "greedy" else allocate_uniform
        return [int(ladder.choice[k]) for ladder, k in zip(ladders, spend(ladders, limit, unit), strict=True)]

    def _ladders(self, costs: list[Any], dense: list[int], fixed: list[int | None]) -> list[Ladder]:
        limit = self.budget.max_error
        return [
            Ladder.of(cost, choice.error, whole, limit if row is None else None, row)
            for choice, cost, whole, row in zip(self.choices, costs, dense, fixed, strict=True)
        ]

    def _spend_jointly(self, resources: list[_Resource], fixed: list[int | None]) -> list[int]:
        """Several limits at once: the sum of the used shares is the cost, as much of it as keeps every limit."""
        scale = 10**9
        costs = [sum(r[1][k] * (scale / r[3]) for r in resources).astype(np.int64) for k in range(len(self.choices))]
        dense = [int(sum(r[2][k] * (scale / r[3]) for r in resources)) for k in range(len(self.choices))]
        ladders = self._ladders(costs, dense, fixed)
        low, high = sum(int(ladder.cost[0]) for ladder in ladders), sum(int(ladder.cost[-1]) for ladder in ladders)
        best = self._spend(ladders, low, "of all limits together")
        for unit, cost, whole, limit in resources:
            used = _used(best, cost, whole)
            if used > limit:
                raise BudgetError(
                    f"compress: within the other limits the layers in scope take at least {used:,} {unit}; {limit:,} were allowed."
                )
        for _ in range(30):
            middle = (low + high) // 2
            rows = self._spend(ladders, max(middle, low), "of all limits together")
            fits = all(_used(rows, cost, whole) <= limit for _, cost, whole, limit in resources)
            low, high, best = (middle, high, rows) if fits else (low, middle, best)
        return best

    def _resources(self, share: float | None) -> list[_Resource]:
        """(unit, cost of each rank, cost of the dense layers, limit) for every limit on size."""
        budget, found = self.budget, []
        dense = [c.dense_params for c in self.choices]
        shares = [x for x in (share, budget.params) if x is not None]
        if shares:
            limit = min(_count(x, sum(dense)) for x in shares)
            found.append(("parameters", [c.params for c in self.choices], dense, limit))
        if budget.bytes is not None:
            size = [c.weight.element_size() for c in self.choices]
            whole = [d * s for d, s in zip(dense, size, strict=True)]
            found.append(
                (
                    "bytes",
                    [c.params * s for c, s in zip(self.choices, size, strict=True)],
                    whole,
                    _count(budget.bytes, sum(whole)),
                )
            )
        if budget.flops is not None:
            pairs = [_flops(c) for c in self.choices]
            if any(pair is None for pair in pairs):
                name = next(c.item.name for c, pair in zip(self.choices, pairs, strict=True) if pair is None)
                raise OptionError(
                    f"compress: the FLOPs of layer {name!r} depend on its input, and no batch called it. Give calib= with a batch that does, or exclude it."
                )
            known = [pair for pair in pairs if pair is not None]
            whole = [pair[1] for pair in known]
            if _count(budget.flops, sum(whole)) > sum(whole):
                raise BudgetError(
                    f"compress: Budget(flops={budget.flops}) is more than the {sum(whole):,} of the dense layers in scope. Give at most that or 1.0."
                )
            found.append(("FLOPs", [pair[0] for pair in known], whole, _count(budget.flops, sum(whole))))
        return found

    def _smallest_within(self, max_drop: float) -> tuple[dict[str, nn.Module], list[LayerReport], float | None]:
        """Bisection over shares for the smallest model whose score drops by at most `max_drop`."""
        assert self.eval_fn is not None and self.score_before is not None
        best = None
        shares = self._possible_shares()
        low, high = 0, len(shares) - 1  # ever smaller
        seen = []
        while low <= high:
            middle = (low + high) // 2
            layers, reports = self.layers(shares[middle])
            score = _score(self.eval_fn, replaced(self.model, layers))
            seen.append(self.score_before - score)
            if self.score_before - score <= max_drop:
                best, low = (layers, reports, score), middle + 1
            else:
                high = middle - 1
        if best is None:
            raise BudgetError(
                f"compress: no model within the other limits keeps max_drop={max_drop}; the smallest drop that was measured is "
                f"{min(seen):.4g} (eval_fn of the dense model: {self.score_before:.6g}). Loosen a limit, or recover by training."
            )
        return best

    def _fast_enough(self, latency_ms: float) -> tuple[dict[str, nn.Module], list[LayerReport], float | None]:
        """The largest model that is fast enough on the first batch; layers that are not faster stay dense."""
        assert self.calibration is not None
        batch, fastest, dropped = self.calibration.first_batch, float("inf"), None
        for share in self._possible_shares()[::2]:
            layers, reports = self.layers(share, guard=True)
            made = replaced(self.model, layers)
            ms = _model_ms(made, batch)
            fastest = min(fastest, ms)
            if ms > latency_ms or not self._keeps_size(reports):
                continue
            if self.budget.max_drop is None or self.eval_fn is None or self.score_before is None:
                return layers, reports, None
            score = _score(self.eval_fn, made)
            dropped = self.score_before - score
            if dropped <= self.budget.max_drop:
                return layers, reports, score
            break  # smaller models drop more
        drop = "" if dropped is None else f" and eval_fn then drops by {dropped:.4g}"
        raise BudgetError(
            f"compress: no model within the limits takes latency_ms={latency_ms} or less on the first batch; the fastest that was "
            f"measured takes {fastest:.3g} ms{drop}. Loosen a limit."
        )

    def _keeps_size(self, reports: list[LayerReport]) -> bool:
        dense, used = sum(c.dense_params for c in self.choices), sum(r.params_after for r in reports)
        limits = [_count(x, dense) for x in (self.budget.params,) if x is not None]
        return all(used <= limit for limit in limits)

    def _possible_shares(self) -> list[float]:
        dense = sum(c.dense_params for c in self.choices)
        least = sum(min(_fixed_cost(c), c.dense_params) for c in self.choices) / dense
        return [s for s in SHARES if s >= least] or [1.0]


_Resource: TypeAlias = "tuple[str, list[Any], list[int], int]"


def _used(rows: list[int], costs: list[Any], dense: list[int]) -> int:
    return sum(whole if row < 0 else int(cost[row]) for row, cost, whole in zip(rows, costs, dense, strict=True))


def _flops(choice: _Choice) -> tuple[Any, int] | None:
    """FLOPs of each rank and of the dense layer, for the input that was seen."""
    shape = None if choice.seen is None or not choice.seen.shape else choice.seen.shape
    found = choice.item.recipe.positions(choice.item.layer, shape)
    if found is None:
        return None
    at_input, at_output = found
    flops = 2 * (choice.grid.in_macs * at_input + choice.grid.out_macs * at_output)
    return flops, 2 * choice.weight.numel() * at_output


# --- building and measuring ------------------------------------------------------------------------------------------


def _built(choice: _Choice, row: int) -> tuple[Format, FactoredModule]:
    item = choice.item
    rank = tuple(int(r) for r in choice.grid.ranks[row])
    stats = _stats(choice)
    fitted = item.spec.fit(choice.view, choice.weight, rank, stats)
    module = item.recipe.build(item.layer, item.spec, fitted, stats)
    return fitted.tensorized(choice.view.plan), module


def _with_tied(model: nn.Module, choice: _Choice, module: FactoredModule) -> dict[str, nn.Module]:
    """The module under its name, and for each layer with the same weight one that shares its factors."""
    item = choice.item
    layers: dict[str, nn.Module] = {item.name: module}
    for name in item.tied:
        other = model.get_submodule(name)
        twin = type(module).from_config({**module.config(), "bias": False}, module.weight.dtype)
        for key, value in module.named_parameters(recurse=False):
            if key != "bias":
                setattr(twin, key, value)
        for key, value in module.named_buffers(recurse=False):
            setattr(twin, key, value)
        bias = getattr(other, "bias", None)
        if isinstance(bias, Tensor):
            twin.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
        layers[name] = twin
    return layers


def _layer_report(choice: _Choice, row: int, module: FactoredModule | None, example: Calibration | None) -> LayerReport:
    item, layer = choice.item, choice.item.layer
    flops = _flops(choice) if choice.seen is not None and choice.seen.shape else None
    ms_before, ms_after = (None, None) if example is None else _layer_ms(choice, module)
    dense = module is None
    reason = (
        ""
        if not dense
        else "its rank costs more than the dense layer"
        if item.spec.asked_rank
        else "smaller would not fit the limits"
    )
    if item.tied:
        reason = "; ".join(x for x in (reason, f"shared with {', '.join(item.tied)}") if x)
    if example is not None and choice.seen is None:
        reason = "; ".join(x for x in (reason, "no batch called it, so its fit is unweighted") if x)
    return LayerReport(
        name=item.name,
        kind=type(layer).__name__,
        spec="" if dense else type(item.spec).__name__,
        rank=() if dense else tuple(int(r) for r in choice.grid.ranks[row]),
        compressed=not dense,
        reason=reason,
        params_before=n_params(layer),
        params_after=n_params(layer if module is None else module),
        bytes_before=n_bytes(layer),
        bytes_after=n_bytes(layer if module is None else module),
        flops_before=None if flops is None else flops[1],
        flops_after=None if flops is None else flops[1] if dense else int(flops[0][row]),
        ms_before=ms_before,
        ms_after=ms_before if dense else ms_after,
        rel_error=0.0 if dense else float(choice.error[row]) ** 0.5,
        weighted=_stats(choice) is not None,
    )


def _layer_ms(choice: _Choice, module: FactoredModule | None) -> tuple[float | None, float | None]:
    seen, weight = choice.seen, choice.weight
    if seen is None or not seen.shape or module is None:
        return None, None
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(seen.shape, generator=gen).to(weight.device, seen.dtype)
    layer = choice.item.layer
    with torch.no_grad():
        quick = {"device": weight.device, "runs": 5, "time_limit_s": 0.1}
        return measure_ms(lambda: type(layer).forward(layer, x), **quick), measure_ms(
            lambda: module.forward(x), **quick
        )


def _score(eval_fn: EvalFn, model: nn.Module) -> float:
    with evaluating(model):
        value = eval_fn(model)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise OptionError(
            f"compress: eval_fn gave a {type(value).__name__}. It must give one number, higher for better."
        ) from None


def _model_ms(model: nn.Module, batch: Any) -> float:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with evaluating(model):
        return measure_ms(lambda: run_batch(model, batch, "compress"), device, runs=5, time_limit_s=1.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Before:
    """What must be measured before the model may change."""

    params: int
    bytes: int
    ms: float | None
    outputs: list[Tensor] | None

    @staticmethod
    def of(model: nn.Module, example: Any) -> _Before:
        ms = None if example is None else _model_ms(model, example)
        outputs = None if example is None else _outputs(model, example)
        return _Before(n_params(model), n_bytes(model), ms, outputs)


def _outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    with evaluating(model):
        return [t.detach().double() for t in output_tensors(run_batch(model, batch, "compress"))]


def _output_error(before: list[Tensor] | None, after: list[Tensor]) -> float | None:
    if not before or [t.shape for t in before] != [t.shape for t in after]:
        return None
    wrong = sum(float((a - b).square().sum()) for a, b in zip(after, before, strict=True))
    energy = sum(float(b.square().sum()) for b in before)
    return (wrong / energy) ** 0.5 if energy > 0 else None


def _model_report(
    before: _Before,
    made: nn.Module,
    choices: list[_Choice],
    reports: list[LayerReport],
    scope: Scope,
    calibration: Calibration | None,
    example: Any,
) -> ModelReport:
    left = [_left_report(made, name, reason) for name, reason in scope.left.items()]
    notes = []
    if calibration is None:
        notes.append("no calibration data: the weights alone were fitted; calib= gives far better models at equal size")
    elif missed := [c.item.name for c in choices if c.seen is None]:
        notes.append(
            f"no batch called {len(missed)} layer(s) as modules, so their fit is unweighted: {', '.join(missed[:5])}"
        )
    return ModelReport(
        layers=(*reports, *left),
        params_before=before.params,
        params_after=n_params(made),
        scope_params_before=sum(r.params_before for r in reports),
        scope_params_after=sum(r.params_after for r in reports),
        bytes_before=before.bytes,
        bytes_after=n_bytes(made),
        ms_before=before.ms,
        ms_after=None if example is None else _model_ms(made, example),
        output_error=None if example is None else _output_error(before.outputs, _outputs(made, example)),
        notes=tuple(notes),
    )


def _left_report(model: nn.Module, name: str, reason: str) -> LayerReport:
    layer = model.get_submodule(name)
    size, storage = n_params(layer), n_bytes(layer)
    return LayerReport(name, type(layer).__name__, "", (), False, reason, size, size, storage, storage)
