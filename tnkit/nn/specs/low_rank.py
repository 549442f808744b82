"""LowRankLayer: a matrix as two factors, or pivoted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from tnkit.nn.forms import Form, LowRankForm
from tnkit.nn.specs.base import LAYER_SPECS, Execution, Fitted
from tnkit.nn.specs.matrix import MatrixSpec
from tnkit.nn.stats import InputStats
from tnkit.nn.views import WeightView

__all__ = ["LowRankLayer"]


@dataclass(frozen=True, slots=True, repr=False)
class LowRankLayer(MatrixSpec):
    """A linear layer as two factors: y = B(Ax) + b.

    Attributes:
        rank: of the weight; None leaves it to keep, max_error or the budget.
        pivoted: as in the class's r(m + n − r) form; None: pivoted, but for half types.
        centred: use the centred covariance and correct the bias (output-feature PCA); needs calibration with means.
        execution: "factored" by default: two small products have not been measured slower than making the weight.

    Example:
        >>> from tnkit.nn import LowRankLayer
        >>> LowRankLayer(keep=0.5, pivoted=False)
        LowRankLayer(keep=0.5, pivoted=False)
    """

    centred: bool = False
    execution: Execution = field(default="factored", kw_only=True)

    name: ClassVar[str] = "lowrank"
    reads: ClassVar[tuple[str, ...]] = ("matrix",)

    def inputs(self, stats: InputStats | None) -> InputStats | None:
        """The moments of the inputs that the fit uses; centred ones if asked for."""
        if stats is None or not self.whiten:
            return None
        return stats.centred() if self.centred and stats.count else stats

    def form(self, view: WeightView, fitted: Fitted) -> tuple[Form, Mapping[str, Tensor]]:
        """Two factors, or pivots on the smaller side."""
        left, right = fitted.tensors()
        return LowRankForm.of(left, right, pivoted=bool(self.pivoted))


LAYER_SPECS.register(LowRankLayer.name, LowRankLayer)
