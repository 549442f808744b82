"""Plan: ranks, and with them layers, such that every limit of a budget holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from torch import nn

from tnkit.errors import BudgetError, OptionError
from tnkit.formats import Budget
from tnkit.nn.allocate import Ladder, allocate, allocate_uniform
from tnkit.nn.build import build, layer_report, with_twins
from tnkit.nn.calibrate import Calibration
from tnkit.nn.choice import Choice, least_cost
from tnkit.nn.clock import Curve, Stopwatch, curves, raced
from tnkit.nn.measure import EvalFn, model_ms, score_of
from tnkit.nn.report import LayerReport
from tnkit.nn.specs import Ints
from tnkit.nn.surgery import n_params, replaced

__all__ = ["Allocation", "Outcome", "Plan", "require_sizes"]

Allocation: TypeAlias = Literal["greedy", "uniform"]
#: A limit on what is lost (max_drop) is met in steps of this share of the parameters.
SHARES = tuple(round(1.0 - 0.05 * k, 2) for k in range(1, 20))
#: Whole models that are measured for a limit of time, and the shares of it that are aimed at and near enough.
TRIES, AIM, NEAR = 8, 0.98, 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Layers to put in, for each choice a report and the row of its grid (−1: dense), and the score if measured."""

    layers: dict[str, nn.Module]
    reports: tuple[LayerReport, ...]
    rows: tuple[int, ...]
    score: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """One limit on size.

    Attributes:
        unit: the word for it.
        costs: for each layer (K,) what each rank takes.
        dense: for each layer what it takes as it is.
        limit: on the sum.
    """

    unit: str
    costs: tuple[Ints, ...]
    dense: tuple[int, ...]
    limit: int

    def used(self, rows: Sequence[int]) -> int:
        """What a choice of rows takes; −1 is the dense layer."""
        return sum(d if row < 0 else int(c[row]) for row, c, d in zip(rows, self.costs, self.dense, strict=True))


def count(limit: int | float, whole: int) -> int:
    """A limit as a count: an int as it is, a float as a fraction of `whole`."""
    return limit if isinstance(limit, int) else int(limit * whole)


def require_sizes(choices: Sequence[Choice], budget: Budget) -> None:
    """Refuse limits on parameters and bytes that cannot be met whatever the data, or that exceed the dense layers.

    Raises:
        BudgetError: either.
    """
    for unit in ("params", "bytes"):
        limit = getattr(budget, unit)
        if limit is None:
            continue
        scale = [c.weight.element_size() if unit == "bytes" else 1 for c in choices]
        dense = sum(c.dense_params * s for c, s in zip(choices, scale, strict=True))
        least = sum(least_cost(c) * s for c, s in zip(choices, scale, strict=True))
        asked = count(limit, dense)
        who = f"compress: Budget({unit}={limit}) is {asked:,} {unit}"
        if asked > dense:
            raise BudgetError(
                f"{who}, more than the {dense:,} that the {len(choices)} layer(s) in scope take. "
                f"An int is a count and a float a fraction of the layers in scope: give at most {dense:,} or 1.0."
            )
        if asked < least:
            raise BudgetError(
                f"{who}, but the {len(choices)} layer(s) in scope take at least {least:,} of {dense:,} "
                f"({least / dense:.1%}). Give {least:,} or more, or loosen the rules."
            )


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything that decides the ranks.

    Attributes:
        model: the dense model; never changed here.
        choices: one for each weight in scope, with errors.
        budget: the limits.
        allocation: how size is shared out.
        calibration: what was seen, or None.
        eval_fn: the model's quality, or None.
        score_before: its value for the dense model.
        timed: whether layers are timed for the report.
        allowed: for each choice the rows of its grid that may be taken; None for all.
        watch: measures layers, where time is a limit.
        times: what it found, by choice.
    """

    model: nn.Module
    choices: tuple[Choice, ...]
    budget: Budget
    allocation: Allocation
    calibration: Calibration | None
    eval_fn: EvalFn | None
    score_before: float | None
    timed: bool
    allowed: tuple[Ints, ...] | None = None
    watch: Stopwatch = raced
    times: tuple[Curve, ...] = ()

    def search(self) -> Outcome:
        """The layers that keep to every limit.

        Raises:
            BudgetError: nothing does.
        """
        if self.budget.latency_ms is not None:
            return self._fast_enough(self.budget.latency_ms)
        if self.budget.max_drop is not None:
            return self._smallest_within(self.budget.max_drop)
        return self.outcome(None)

    def outcome(self, share: float | None, *, ms: float | None = None) -> Outcome:
        """Layers and reports with at most this share of the parameters.

        With `ms` the layers together take at most so many milliseconds by `times`, and slower ones stay dense.
        """
        guard = ms is not None
        layers: dict[str, nn.Module] = {}
        reports: list[LayerReport] = []
        rows: list[int] = []
        for place, (choice, row) in enumerate(zip(self.choices, self.rows(share, ms), strict=True)):
            built = None if row < 0 else build(choice, self._confirmed(place, row, ms))
            report = layer_report(choice, built, timed=self.timed or guard)
            if guard and report.ms_before is not None and report.ms_after is not None:
                if report.ms_after >= report.ms_before:
                    why = f"not measured faster ({report.ms_before:.3g} -> {report.ms_after:.3g} ms)"
                    built, report = None, replace(layer_report(choice, None), reason=why)
            elif built is not None and n_params(built.module) >= choice.dense_params:
                built, report = None, layer_report(choice, None)
            if built is not None:
                layers.update(with_twins(self.model, choice, built.module))
            reports.append(report)
            rows.append(-1 if built is None else built.row)
        return Outcome(layers, tuple(reports), tuple(rows))

    def rows(self, share: float | None, ms: float | None = None) -> list[int]:
        """The row of each layer's grid, or −1 for dense.

        Raises:
            BudgetError: the limits cannot be met.
        """
        resources = self._resources(share, ms)
        if not resources:
            params = Resource("parameters", tuple(c.params for c in self.choices), self._dense(), sum(self._dense()))
            return [int(ladder.choice[0]) for ladder in self._ladders(params)]
        if len(resources) == 1:
            return self._spend(self._ladders(resources[0]), resources[0].limit, resources[0].unit)
        return self._spend_jointly(resources)

    def _confirmed(self, place: int, row: int, ms: float | None) -> int:
        """The row that stands after a look at what was kept apart, where the budget chose it."""
        choice = self.choices[place]
        spec = choice.item.spec
        if not spec.is_free() or choice.grid.n_params[row] + choice.extra >= choice.dense_params:
            return row
        costs = [r.costs[place] for r in self._resources(None, ms)] or [choice.params]
        allowed = np.flatnonzero(np.logical_and.reduce([cost <= cost[row] for cost in costs]))
        allowed = allowed if self.allowed is None else np.intersect1d(allowed, self.allowed[place])
        return spec.confirmed(choice.view, choice.weight, row, choice.metric, choice.error, allowed)

    def _dense(self) -> tuple[int, ...]:
        return tuple(c.dense_params for c in self.choices)

    def _spend(self, ladders: list[Ladder], limit: int, unit: str) -> list[int]:
        spend = allocate if self.allocation == "greedy" else allocate_uniform
        return [int(ladder.choice[k]) for ladder, k in zip(ladders, spend(ladders, limit, unit), strict=True)]

    def _ladders(self, resource: Resource) -> list[Ladder]:
        ladders = []
        every = self.allowed or (None,) * len(self.choices)
        for choice, cost, dense, allowed in zip(self.choices, resource.costs, resource.dense, every, strict=True):
            limit, row = self.budget.max_error, choice.fixed_row()
            if row is not None and limit is not None and choice.error[row] > limit**2:
                raise BudgetError(
                    f"compress: {choice.item.spec!r} on layer {choice.item.name!r} has a relative error of "
                    f"{float(choice.error[row]) ** 0.5:.4g}, above Budget(max_error={limit}). Loosen one of them."
                )
            ladder = Ladder.of(cost, choice.error, dense, limit, row, allowed)
            ladders.append(replace(ladder, error=ladder.error * self._importance(choice)))
        return ladders

    def _importance(self, choice: Choice) -> float:
        """What an error of the whole layer costs: its energy where gradients make these comparable, otherwise 1."""
        known = [c.energy for c in self.choices if c.metric.comparable()]
        if not known:
            return 1.0
        return choice.energy if choice.metric.comparable() else float(np.median(known))

    def _spend_jointly(self, resources: list[Resource]) -> list[int]:
        """Several limits at once: the sum of the used shares is the cost, as much of it as keeps every limit."""
        unit = 10**9

        def joined(k: int) -> tuple[Ints, int]:
            parts = [(r.costs[k] * (unit / r.limit), r.dense[k] * (unit / r.limit)) for r in resources]
            return np.ceil(sum(p[0] for p in parts)).astype(np.int64), int(sum(p[1] for p in parts))

        costs, dense = zip(*(joined(k) for k in range(len(self.choices))), strict=True)
        ladders = self._ladders(Resource("shares", costs, dense, unit))
        low, high = sum(int(x.cost[0]) for x in ladders), sum(int(x.cost[-1]) for x in ladders)
        best = self._spend(ladders, low, "shares")
        for r in resources:
            if r.used(best) > r.limit:
                raise BudgetError(
                    f"compress: within the other limits the layers in scope take at least {r.used(best):,} {r.unit}; "
                    f"{r.limit:,} were allowed. Loosen one of the limits."
                )
        for _ in range(40):
            middle = (low + high) // 2
            rows = self._spend(ladders, middle, "shares")
            if all(r.used(rows) <= r.limit for r in resources):
                low, best = middle, rows
            else:
                high = middle
        return best

    def _resources(self, share: float | None, ms: float | None = None) -> list[Resource]:
        """Every limit on size."""
        budget, found, dense = self.budget, [], self._dense()
        shares = [x for x in (share, budget.params) if x is not None]
        if shares:
            limit = min(count(x, sum(dense)) for x in shares)
            found.append(Resource("parameters", tuple(c.params for c in self.choices), dense, limit))
        if budget.bytes is not None:
            size = [c.weight.element_size() for c in self.choices]
            whole = tuple(d * s for d, s in zip(dense, size, strict=True))
            costs = tuple(c.params * s for c, s in zip(self.choices, size, strict=True))
            found.append(Resource("bytes", costs, whole, count(budget.bytes, sum(whole))))
        if budget.flops is not None:
            found.append(self._flops(budget.flops))
        if ms is not None:
            found.append(self._time(ms))
        return found

    def _flops(self, limit: int | float) -> Resource:
        pairs = [(choice, choice.flops()) for choice in self.choices]
        known = [pair for _, pair in pairs if pair is not None]
        if len(known) < len(pairs):
            name = next(choice.item.name for choice, pair in pairs if pair is None)
            raise OptionError(
                f"compress: the FLOPs of layer {name!r} depend on its input, and no batch called it. "
                "Give calib= with a batch that does, or exclude the layer."
            )
        dense = tuple(whole for _, whole in known)
        asked = count(limit, sum(dense))
        if asked > sum(dense):
            raise BudgetError(
                f"compress: Budget(flops={limit}) is {asked:,}, more than the {sum(dense):,} of the dense layers "
                "in scope. Give at most that, or 1.0."
            )
        return Resource("FLOPs", tuple(cost for cost, _ in known), dense, asked)

    def _smallest_within(self, max_drop: float) -> Outcome:
        """Bisection over shares for the smallest model whose score drops by at most `max_drop`."""
        shares, drops, best = self._possible_shares(), [], None
        low, high = 0, len(shares) - 1  # ever smaller
        while low <= high:
            middle = (low + high) // 2
            tried = self._scored(self.outcome(shares[middle]))
            drops.append(self._drop(tried))
            if drops[-1] <= max_drop:
                best, low = tried, middle + 1
            else:
                high = middle - 1
        if best is None:
            raise BudgetError(
                f"compress: no model within the other limits keeps max_drop={max_drop}; the smallest drop "
                f"that was measured is {min(drops):.4g}, from {self.score_before:.6g}. "
                f"Loosen a limit, or recover by training."
            )
        return best

    def _time(self, ms: float) -> Resource:
        """What layers take by the clock, tied ones once each; what is not smaller costs as the dense layer."""
        costs, dense = [], []
        for choice, curve in zip(self.choices, self.times, strict=True):
            calls = 1 + len(choice.item.tied)
            smaller = choice.params < choice.dense_params
            taken = np.where(smaller, np.minimum(curve.ms, curve.dense_ms), curve.dense_ms)
            costs.append(np.ceil(1e6 * calls * taken).astype(np.int64))
            dense.append(int(np.ceil(1e6 * calls * curve.dense_ms)))
        return Resource("nanoseconds of the layers", tuple(costs), tuple(dense), max(1, int(1e6 * ms)))

    def _fast_enough(self, latency_ms: float) -> Outcome:
        """The best model that is fast enough on the first batch: time goes where it gains most.

        The layers get what the rest of the model leaves of the limit; whole models are measured to see what that is.
        """
        assert self.calibration is not None
        plan = replace(self, times=curves(self.choices, self.watch))
        whole = sum(plan._time(1.0).dense) / 1e6
        low, high = 0.0, whole
        aim = min(whole, max(whole + latency_ms - model_ms(self.model, self.calibration.first_batch), 0.02 * whole))
        best, fastest, why = None, float("inf"), ""
        for _ in range(TRIES):
            try:
                tried = plan.outcome(None, ms=aim)
            except BudgetError as error:
                low, why = aim, f" ({error})"
                aim = (low + high) / 2
                continue
            ms = model_ms(replaced(self.model, tried.layers), self.calibration.first_batch)
            fastest = min(fastest, ms)
            if ms <= latency_ms and self._keeps_sizes(tried):
                best, low = tried, aim
                if ms >= NEAR * latency_ms or aim >= whole:
                    break
            else:
                high = aim
            step = aim + AIM * latency_ms - ms
            aim = step if low < step < high else (low + high) / 2
        if best is None:
            raise BudgetError(
                f"compress: no model within the limits takes latency_ms={latency_ms} or less on the first batch; "
                f"the fastest that was measured takes {fastest:.3g} ms{why}. Loosen a limit."
            )
        if self.budget.max_drop is None:
            return best
        best = self._scored(best)
        if self._drop(best) > self.budget.max_drop:
            raise BudgetError(
                f"compress: the best model that takes latency_ms={latency_ms} or less drops by "
                f"{self._drop(best):.4g}, above max_drop={self.budget.max_drop}. Loosen a limit."
            )
        return best

    def _scored(self, tried: Outcome) -> Outcome:
        assert self.eval_fn is not None
        return replace(tried, score=score_of(self.eval_fn, replaced(self.model, tried.layers)))

    def _drop(self, tried: Outcome) -> float:
        assert tried.score is not None
        assert self.score_before is not None
        return self.score_before - tried.score

    def _keeps_sizes(self, tried: Outcome) -> bool:
        """Whether layers that went back to dense leave the limits on size kept."""
        return all(r.used(tried.rows) <= r.limit for r in self._resources(None))

    def _possible_shares(self) -> list[float]:
        least = sum(least_cost(c) for c in self.choices) / sum(self._dense())
        return [s for s in SHARES if s >= least] or [1.0]
