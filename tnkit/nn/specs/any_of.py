"""AnyOf: of several specifications whichever loses least, at each size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tnkit.errors import BudgetError, OptionError
from tnkit.formats import BLASTSpec
from tnkit.nn.forms import Form
from tnkit.nn.specs.base import LAYER_SPECS, Fitted, Floats, Ints, LayerSpec, RankGrid
from tnkit.nn.specs.low_rank import LowRankLayer
from tnkit.nn.specs.network import NetworkLayer
from tnkit.nn.stats import InputStats, Metric
from tnkit.nn.views import WeightView

__all__ = ["AnyOf"]

#: What is tried where nothing is said: the formats of matrices that can be fast, and the sum of Kronecker products.
USUAL: tuple[LayerSpec, ...] = (
    LowRankLayer(),
    NetworkLayer("btt"),
    NetworkLayer(BLASTSpec(blocks=(4, 4))),
    NetworkLayer("kron"),
)

#: Squared errors of so many times the least are close.
CLOSE = 1.5


@dataclass(frozen=True, slots=True, repr=False)
class AnyOf(LayerSpec):
    """A linear layer in whichever of several formats loses least at the size it may have.

    The choice goes by the error of fits that were made, in the metric of the inputs where there is one: at no size is
    it worse than the best of the formats alone. Where a part of the inputs was kept apart (`InputStats.aside`;
    `compress` does so with several batches) and a share or a budget is given, formats that come close are also fitted
    to the other inputs, and what they lose on that part decides: one that can bend more to its inputs loses less on
    them than on others. A rank is the place of the format in `specs`, and then the format's own ranks, filled up with
    zeros.

    Attributes:
        specs: what is tried; none of them with a keep or max_error of its own.

    Cost:
        That of all of them together.

    Example:
        >>> import torch
        >>> from tnkit.nn import AnyOf, LowRankLayer, NetworkLayer, compress_layer
        >>> layer = torch.nn.Linear(16, 16)
        >>> layer.weight.data = torch.kron(torch.randn(4, 4), torch.randn(4, 4))
        >>> result = compress_layer(layer, AnyOf((LowRankLayer(), NetworkLayer("kron")), keep=0.3))
        >>> result.report.rel_error < 1e-5, result.module.form.kind
        (True, 'network')
    """

    specs: tuple[LayerSpec, ...] = USUAL

    name: ClassVar[str] = "any_of"
    n_ranks: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = ("matrix",)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            OptionError: no specification, one that is none or is not of matrices, or one with limits of its own.
        """
        super(AnyOf, self).__post_init__()
        if not self.specs:
            raise OptionError("AnyOf: specs is empty. Give at least one layer specification.")
        for spec in self.specs:
            if not isinstance(spec, LayerSpec) or "matrix" not in spec.reads or isinstance(spec, AnyOf):
                raise OptionError(f"AnyOf: {spec!r} is no specification for matrices. Use LowRankLayer, NetworkLayer …")
            if spec.keep is not None or spec.max_error is not None:
                raise OptionError(f"AnyOf: {spec!r} has a limit of its own. Give keep and max_error to AnyOf.")

    @property
    def chooses(self) -> bool:
        """Where no error is asked for; with a size by `errors`, under a budget by `confirmed`."""
        return self.max_error is None and self.whiten and len(self.specs) > 1

    @property
    def asked_rank(self) -> tuple[int, ...] | None:
        """None: sizes decide."""
        return None

    def is_free(self) -> bool:
        """Whether the choice is left to a budget; not where every specification has a rank of its own."""
        return LayerSpec.is_free(self) and any(spec.asked_rank is None for spec in self.specs)

    def grid(self, view: WeightView) -> RankGrid:
        """The ranks of all formats, one after the other.

        Raises:
            BudgetError: no format is as small as `keep` asks.
        """
        places = self._possible(view)
        grids = list(places.values())
        width = 1 + max(grid.ranks.shape[1] for grid in grids)
        ranks = [
            np.pad(np.insert(grid.ranks, 0, k, axis=1), ((0, 0), (0, width - 1 - grid.ranks.shape[1])))
            for k, grid in places.items()
        ]
        parts = ([getattr(g, name) for g in grids] for name in ("n_params", "in_macs", "out_macs"))
        return RankGrid(np.concatenate(ranks), *(np.concatenate(part) for part in parts))

    def errors(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float]:
        """Of every rank of every format."""
        error, energy, _ = self.trials(view, weight, metric)
        return error, energy

    def trials(self, view: WeightView, weight: Tensor, metric: Metric) -> tuple[Floats, float, dict[int, Fitted]]:
        """As `errors`, with the fits that were made.

        Errors are shares of the energy in the whole metric, so that those of different formats can be compared. Without
        a keep, formats that must be fitted are compared by fits to the weight alone, measured in the metric.
        """
        errors, fits, start = dict[int, Floats](), dict[int, Fitted](), 0
        whole = metric.felt(view.blocks(weight))
        for place in self._possible(view):
            error, energy, made = self._member(place).trials(view, weight, metric)
            errors[place] = error * (whole / energy) if energy > 0 else np.zeros_like(error)
            fits |= {start + row: fitted for row, fitted in made.items()}
            start += len(error)
        worse = self._elsewhere(view, weight, metric, errors)
        return np.concatenate([error * worse.get(place, 1.0) for place, error in errors.items()]), whole, fits

    def _elsewhere(
        self, view: WeightView, weight: Tensor, metric: Metric, errors: Mapping[int, Floats]
    ) -> dict[int, float]:
        """By how much errors are larger on inputs that were kept apart; of formats that are close to the best."""
        inputs = metric.inputs
        if not self.chooses or inputs is None or inputs.aside is None or inputs.rest().count < 1:
            return {}
        if self.keep is None:  # sizes are not known yet: `confirmed` compares when they are
            return {}
        allowed, grids = int(float(self.keep) * weight.numel()), self._possible(view)
        rows = {k: np.flatnonzero(grid.n_params <= allowed) for k, grid in grids.items()}
        best = {k: int(mine[errors[k][mine].argmin()]) for k, mine in rows.items() if len(mine)}
        least = min((float(errors[k][row]) for k, row in best.items()), default=0.0)
        close = [k for k, row in best.items() if errors[k][row] <= CLOSE * least]
        if len(close) < 2 or least == 0.0:
            return {}
        lost = self._unseen(view, weight, metric, {k: grids[k].ranks[best[k]] for k in close})
        ratio = {k: lost[k] / float(errors[k][best[k]]) for k in close}
        scale = ratio[min(close, key=lambda k: float(errors[k][best[k]]))]
        return {k: r / scale for k, r in ratio.items()} if scale > 0 else {}

    def _unseen(self, view: WeightView, weight: Tensor, metric: Metric, ranks: Mapping[int, Ints]) -> dict[int, float]:
        """What members at some ranks lose on the inputs that were kept apart, fitted to the others."""
        assert metric.inputs is not None
        assert metric.inputs.aside is not None
        seen, unseen = (replace(metric, inputs=part) for part in (metric.inputs.rest(), metric.inputs.aside))
        blocks = view.blocks(weight.detach().to(torch.float64))
        lost = {}
        for k, rank in ranks.items():
            fitted = self._member(k).fit(view, weight, tuple(int(r) for r in rank), seen)
            lost[k] = unseen.felt(blocks - fitted.to_dense().reshape(blocks.shape))
        return lost

    def confirmed(
        self, view: WeightView, weight: Tensor, row: int, metric: Metric, error: Floats, allowed: Ints
    ) -> int:
        """The row of a format that loses less on the inputs that were kept apart, and is no larger; mostly the same.

        Where a budget has given this layer a size, that row and the best of each other format which takes no more
        are fitted to the other inputs, those that come close.
        """
        inputs = metric.inputs
        if self.keep is not None or not self.chooses or inputs is None or inputs.aside is None:
            return row
        if inputs.rest().count < 1:
            return row
        grid = self.grid(view)
        rows = np.intersect1d(np.flatnonzero(grid.n_params <= grid.n_params[row]), allowed)
        best = {int(grid.ranks[row, 0]): row}
        for place in sorted({int(p) for p in grid.ranks[rows, 0]} - set(best)):
            mine = rows[grid.ranks[rows, 0] == place]
            at = int(mine[error[mine].argmin()])
            if error[at] <= CLOSE * error[row]:
                best[place] = at
        if len(best) < 2:
            return row
        ranks = {k: np.array(self.narrowed(view, tuple(map(int, grid.ranks[at])))[1]) for k, at in best.items()}
        lost = self._unseen(view, weight, metric, ranks)
        return best[min(best, key=lambda k: lost[k])]

    def fit(self, view: WeightView, weight: Tensor, rank: tuple[int, ...], metric: Metric) -> Fitted:
        """In the format that the rank names."""
        spec, rank = self.narrowed(view, rank)
        return spec.fit(view, weight, rank, metric)

    def form(self, view: WeightView, fitted: Fitted) -> tuple[Form, Mapping[str, Tensor]]:
        """Not known without the rank.

        Raises:
            OptionError: always; `narrowed` gives the specification that knows.
        """
        raise OptionError("AnyOf: the form is that of the specification that was chosen; ask narrowed() for it.")

    def narrowed(self, view: WeightView, rank: tuple[int, ...]) -> tuple[LayerSpec, tuple[int, ...]]:
        """The specification that a rank names, and its own rank."""
        spec = self._member(rank[0])
        return spec, rank[1 : 1 + spec.grid(view).ranks.shape[1]]

    def inputs(self, stats: InputStats | None) -> InputStats | None:
        """The moments as they are; members do not change them."""
        return stats if self.whiten else None

    def resolved(self, dtype: torch.dtype) -> LayerSpec:
        """With every member decided."""
        return replace(self, specs=tuple(spec.resolved(dtype) for spec in self.specs))

    def _member(self, place: int) -> LayerSpec:
        """A specification with the share that may be kept; one with a rank of its own keeps to that."""
        spec = self.specs[place]
        return spec if spec.asked_rank is not None else replace(spec, keep=self.keep, max_error=self.max_error)

    def _possible(self, view: WeightView) -> dict[int, RankGrid]:
        """The grids of those formats that can be as small as `keep` asks, by place."""
        found, why = dict[int, RankGrid](), None
        for place in range(len(self.specs)):
            try:
                found[place] = self._member(place).grid(view)
            except BudgetError as error:
                why = error
        if not found:
            assert why is not None
            raise why
        return found


LAYER_SPECS.register(AnyOf.name, AnyOf)
