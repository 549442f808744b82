"""Choice: one layer's admissible ranks, what each costs and, once it is calibrated, what each loses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from tnkit.errors import BudgetError, ShapeError
from tnkit.nn.calibrate import Calibration, Seen
from tnkit.nn.scope import Item
from tnkit.nn.specs import Fitted, Floats, Ints, RankGrid
from tnkit.nn.stats import InputStats, Metric
from tnkit.nn.surgery import n_params
from tnkit.nn.views import WeightView

__all__ = ["Choice", "analysed", "least_cost", "make_choice", "require_fit", "with_errors"]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What one weight may become.

    Attributes:
        item: the layer and its specification.
        view: how its weight is read as a tensor.
        grid: every rank and its cost.
        dense_params: parameters of the layer as it is, bias included.
        extra: parameters beside the factors (the bias).
        seen: what calibration saw of its inputs, or None.
        metric: in which the fit is best.
        error: (K,) squared error of each rank as a share of `energy`; empty until `with_errors`.
        energy: of the whole layer in the metric.
        fits: those that are made already, by row of the grid.
    """

    item: Item
    view: WeightView
    grid: RankGrid
    dense_params: int
    extra: int
    seen: Seen | None
    metric: Metric
    error: Floats
    energy: float
    fits: Mapping[int, Fitted] = field(default_factory=dict)

    @property
    def who(self) -> str:
        """The layer in words, for messages."""
        kind = type(self.item.layer).__name__
        return f"layer {self.item.name!r} ({kind})" if self.item.name else f"this {kind}"

    @property
    def weight(self) -> Tensor:
        """The dense weight, detached."""
        found = self.item.layer.weight
        assert isinstance(found, Tensor)
        return found.detach()

    @property
    def params(self) -> Ints:
        """(K,) parameters of the layer at each rank, bias included."""
        return self.grid.n_params + self.extra

    def flops(self) -> tuple[Ints, int] | None:
        """FLOPs of each rank and of the dense layer on the first input that was seen; None where it is not known."""
        shape = None if self.seen is None or not self.seen.shape else self.seen.shape
        kind = self.item.recipe.kind
        found = kind.positions(self.item.layer, shape)
        if found is None:
            return None
        at_input, at_output = found
        flops = 2 * (self.grid.in_macs * at_input + self.grid.out_macs * at_output)
        dense_in, dense_out = kind.macs(self.item.layer)
        return flops, 2 * (dense_in * at_input + dense_out * at_output)

    def fixed_row(self) -> int | None:
        """The row of the grid that the specification itself decides, or None if it leaves it to the budget.

        Raises:
            RankError: a rank that is not admissible.
            BudgetError: no rank keeps to keep and max_error.
        """
        spec, grid = self.item.spec, self.grid
        if spec.asked_rank is not None:
            return spec.row(grid, self.who)
        if spec.is_free():
            return None
        rows = allowed_rows(self)
        if spec.max_error is None:
            return int(rows[np.lexsort((grid.n_params[rows], self.error[rows]))[0]])
        good = rows[self.error[rows] <= spec.max_error**2]
        if len(good) == 0:
            raise BudgetError(
                f"{spec!r} on {self.who}: within keep={spec.keep} the relative error is at least "
                f"{float(self.error[rows].min()) ** 0.5:.4g}, above max_error={spec.max_error}. Loosen one of them."
            )
        return int(good[np.lexsort((self.error[good], grid.n_params[good]))[0]])


def make_choice(item: Item) -> Choice:
    """The ranks and costs of a layer, by its shape alone.

    Raises:
        RankError: its specification asks for a rank that the shape does not admit.
        BudgetError: its specification keeps less than the smallest rank takes.
    """
    view = item.recipe.view(item.layer)
    bias = getattr(item.layer, "bias", None)
    adds_bias = bool(getattr(item.spec, "centred", False)) and bias is None
    extra = view.plan.shape[0] if adds_bias else 0 if bias is None else bias.numel()
    choice = Choice(item, view, item.spec.grid(view), n_params(item.layer), extra, None, Metric(), np.empty(0), 0.0)
    least_cost(choice)
    return choice


def allowed_rows(choice: Choice) -> Ints:
    """The rows of the grid within the specification's own `keep`.

    Raises:
        BudgetError: there is none.
    """
    spec, cost = choice.item.spec, choice.grid.n_params
    if spec.keep is None:
        return np.arange(len(cost))
    numel = choice.weight.numel()
    rows = np.flatnonzero(cost <= int(spec.keep * numel))
    if len(rows) == 0:
        raise BudgetError(
            f"{spec!r} on {choice.who}: keep={spec.keep} of {numel:,} is "
            f"{int(spec.keep * numel):,} parameters, but the smallest rank takes {int(cost.min()):,}. "
            f"Use keep >= {int(cost.min()) / numel:.4f}, or rank=."
        )
    return rows.astype(np.int64)


def least_cost(choice: Choice) -> int:
    """The fewest parameters that the specification allows; the dense layer counts."""
    rank = choice.item.spec.asked_rank
    rows = allowed_rows(choice) if rank is None else np.array([choice.item.spec.row(choice.grid, choice.who)])
    return min(int(choice.params[rows].min()), choice.dense_params)


def analysed(choice: Choice, calibration: Calibration | None, *, errors: bool = True) -> Choice:
    """The choice with what calibration saw (tied layers together), and the error of each rank if that is wanted."""
    if calibration is None:
        return with_errors(choice, None, errors=errors)
    found = [calibration.seen[n] for n in (choice.item.name, *choice.item.tied) if n in calibration.seen]
    if not found:
        return with_errors(choice, None, errors=errors)
    looked_up = [seen for seen in found if not seen.dtype.is_floating_point]  # given integers: tables
    others = [seen for seen in found if seen not in looked_up]
    stats, gradients = _sum([seen.stats for seen in others]), _sum([seen.gradients for seen in others])
    table, columns = _sum([seen.stats for seen in looked_up]), _sum([seen.gradients for seen in looked_up])
    seen = replace(found[0], stats=stats, gradients=gradients, table=table, columns=columns)
    return with_errors(choice, seen, errors=errors)


def _sum(parts: list[InputStats | None]) -> InputStats | None:
    total = None
    for part in parts:
        if part is not None:
            total = part if total is None else total + part
    return total


def with_errors(choice: Choice, seen: Seen | None, *, errors: bool = True) -> Choice:
    """The choice with its metric, and the error of each rank in it if that is wanted."""
    spec, view = choice.item.spec, choice.view
    gradients = None if seen is None else seen.gradients
    rows = None if gradients is None else gradients.shrunk_mean()
    table = None if seen is None or seen.table is None or not spec.whiten else seen.table.gram
    columns = None if table is None or seen is None or seen.columns is None else seen.columns.shrunk_mean()
    metric = Metric(None if seen is None else spec.inputs(seen.stats), rows, table, columns)
    if not errors:
        return replace(choice, seen=seen, metric=metric)
    error, energy, fits = spec.trials(view, choice.weight, metric)
    relative = error / energy if energy > 0 else np.zeros_like(error)
    return replace(choice, seen=seen, metric=metric, error=relative, energy=energy, fits=fits)


def require_fit(stats: InputStats, choice: Choice) -> InputStats:
    """Itself.

    Raises:
        ShapeError: the Gram matrix is of another size than the layer's rows.
    """
    groups, n = stats.gram.shape[:2]
    width = choice.view.shape[0 if stats.counts_rows else 1]
    if (groups, n) != (choice.view.groups, width):
        raise ShapeError(
            f"compress_layer: a Gram matrix for {groups} group(s) of {n} does not fit {choice.item.spec!r} of this "
            f"{type(choice.item.layer).__name__}, which takes {choice.view.groups} group(s) of {width}. "
            "Use what calibrate gives with the same specification in its rules."
        )
    return stats
