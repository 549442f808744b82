"""Views: how a layer's weight becomes the tensor that is decomposed, as a plan with an exact inverse.

Example:
    >>> import torch
    >>> from tnkit.nn.views import conv_matrix_view
    >>> view = conv_matrix_view((8, 3, 5, 5), groups=1)
    >>> print(view.plan)
    (8, 3, 5, 5) -> merge -> (8, 75)
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
    return WeightView(Tensorization.of(shape, order=(1, 0) if transposed else None))


def conv_matrix_view(shape: tuple[int, ...], groups: int) -> WeightView:
    """A convolution kernel (o, i/g, *k) as g matrices (o/g, i/g·Πk)."""
    out, *rest = shape
    if groups == 1:
        return WeightView(Tensorization.of(shape, merged=(1, len(rest))))
    split = ((groups, out // groups), *((n,) for n in rest))
    return WeightView(Tensorization.of(shape, split=split, merged=(1, 1, len(rest))), groups)


def conv_tensor_view(shape: tuple[int, ...], groups: int) -> WeightView:
    """A convolution kernel (o, i/g, *k) as g tensors (o/g, i/g, Πk)."""
    out, *rest = shape
    kernel = len(rest) - 1
    if groups == 1:
        return WeightView(Tensorization.of(shape, merged=(1, 1, kernel)))
    split = ((groups, out // groups), *((n,) for n in rest))
    return WeightView(Tensorization.of(shape, split=split, merged=(1, 1, 1, kernel)), groups)


def kernel_size(view: WeightView) -> int:
    """The number of kernel positions of a tensor view."""
    return prod(view.shape[2:])
