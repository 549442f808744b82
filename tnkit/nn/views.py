"""Views: how a layer's weight becomes the tensor that is decomposed, as a plan with an exact inverse.

Example:
    >>> import torch
    >>> from tnkit.nn.views import kernel_view
    >>> view = kernel_view((8, 3, 5, 5), 1, "patches")
    >>> print(view.plan)
    (8, 3, 5, 5) -> reshape (8, 75)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor

from tnkit.tensorize import Tensorization

__all__ = ["WeightView", "kernel_view", "matrix_view"]


@dataclass(frozen=True, slots=True)
class WeightView:
    """A weight as a tensor: the plan, and how many independent groups its first mode holds.

    Attributes:
        plan: from the weight's shape to the tensor's; with more than one group the tensor's first mode is the group.
        groups: number of groups, each of which is decomposed on its own.
        kernel: the spatial sizes of a convolution's kernel; () for a matrix.
        transposed: whether it is that of a transposed convolution.
    """

    plan: Tensorization
    groups: int = 1
    kernel: tuple[int, ...] = ()
    transposed: bool = False

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


def kernel_view(shape: tuple[int, ...], groups: int, reading: str, *, transposed: bool = False) -> WeightView:
    """A convolution's weight by groups.

    Args:
        shape: (o, i/g, *k), or (i, o/g, *k) of a transposed convolution.
        groups: g.
        reading: "kernel" for (o/g, i/g, *k), "channels" for (o/g, i/g, Πk), "patches" for the matrix (o/g, i/g·Πk).
        transposed: which of the two shapes.
    """
    lead = 0 if groups == 1 else 1
    d = len(shape) - 2
    first = (shape[0],) if groups == 1 else (groups, shape[0] // groups)
    plan = Tensorization.start(shape).reshape((*first, *shape[1:]))
    if transposed:
        plan = plan.permute((*range(lead), lead + 1, lead, *range(lead + 2, lead + 2 + d)))
    outs, ins = plan.out_shape[lead], plan.out_shape[lead + 1]
    tails = {"kernel": (outs, ins, *shape[2:]), "channels": (outs, ins, prod(shape[2:]))}
    tail = tails.get(reading, (outs, ins * prod(shape[2:])))
    return WeightView(plan.reshape((*plan.out_shape[:lead], *tail)), groups, tuple(shape[2:]), transposed)
