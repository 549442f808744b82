"""PlannedMatrix: what the fits have in common that stand for a weight as a matrix, and are no formats of their own."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field, replace
from typing import Self

from torch import Tensor

from tnkit.tensorize import Tensorization

__all__ = ["PlannedMatrix"]


@dataclass(frozen=True, slots=True, eq=False)
class PlannedMatrix(abc.ABC):
    """A matrix in parts, and how the weight became that matrix.

    Attributes:
        plan: from the weight to (m, n).
    """

    plan: Tensorization = field(kw_only=True)

    @abc.abstractmethod
    def matrix(self) -> Tensor:
        """The (m, n) matrix."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.plan.shape

    def to_dense(self) -> Tensor:
        """The weight."""
        return self.plan.invert(self.matrix().reshape(self.plan.out_shape))

    def tensorized(self, plan: Tensorization) -> Self:
        """The same over another plan to (m, n)."""
        return replace(self, plan=plan)
