"""Views: how a layer's weight becomes the tensor that is decomposed, as a plan with an exact inverse.

Example:
    >>> import torch
    >>> from tnkit.nn.views import conv_matrix_view
    >>> view = conv_matrix_view((8, 3, 5, 5), groups=1)
    >>> print(view.plan)
    (8, 3, 5, 5) -> reshape (8, 75)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor

from tnkit.tensorize import Tensorization

__all__ = ["WeightView", "conv_matrix_view", "conv_tensor_view", "matrix_view"]


@dataclass(frozen=True, slots=True)
class WeightView:
    """A weight as a tensor: the plan, and how many independent groups its first mode holds.

    Attributes:
        plan: from the weight's shape to the tensor's; with more than one group the tensor's first mode is the group.
        groups: number of groups, each of which is decomposed on its own.
    """

    plan: Tensorization
    groups: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one group's tensor."""
        return self.plan.out_shape if self.groups == 1 else self.plan.out_shape[1:]

    def blocks(self, weight: Tensor) -> Tensor:
        """The tensors of all groups, shape (groups, *shape)."""
        tensor = self.plan.apply(weight)
        return tensor[None] if self.groups == 1 else tensor

    def weight(self, blocks: Tensor) -> Tensor:
        """The way back from `blocks`."""
        return self.plan.invert(blocks[0] if self.groups == 1 else blocks)


def matrix_view(shape: tuple[int, ...], *, transposed: bool = False) -> WeightView:
    """A (out, in) weight as it is; with `transposed`, an (in, out) weight as its transpose."""
    plan = Tensorization.start(shape)
    return WeightView(plan.permute((1, 0)) if transposed else plan)


def conv_matrix_view(shape: tuple[int, ...], groups: int) -> WeightView:
    """A convolution kernel (o, i/g, *k) as g matrices (o/g, i/g·Πk)."""
    return _grouped(shape, groups, (prod(shape[1:]),))


def conv_tensor_view(shape: tuple[int, ...], groups: int) -> WeightView:
    """A convolution kernel (o, i/g, *k) as g tensors (o/g, i/g, Πk)."""
    return _grouped(shape, groups, (shape[1], prod(shape[2:])))


def _grouped(shape: tuple[int, ...], groups: int, rest: tuple[int, ...]) -> WeightView:
    leading = (shape[0],) if groups == 1 else (groups, shape[0] // groups)
    return WeightView(Tensorization.start(shape).reshape((*leading, *rest)), groups)
