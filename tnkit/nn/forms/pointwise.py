"""A 1×1 convolution in any number of dimensions."""

from __future__ import annotations

from torch import Tensor

from tnkit.nn.forms.convolution import FORWARD

__all__ = ["pointwise"]


def pointwise(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Mix channels, pixel by pixel.

    Args:
        x: (…, C, *sizes).
        weight: (out, C / groups, 1, …).
        groups: number of groups.
    """
    return FORWARD[weight.ndim - 2](x, weight, groups=groups)
