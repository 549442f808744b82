"""ChannelSVD: a convolution through fewer channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from torch import Tensor

from tnkit.nn.forms import ChannelForm, Form
from tnkit.nn.specs.base import LAYER_SPECS, Fitted
from tnkit.nn.specs.matrix import MatrixSpec
from tnkit.nn.views import WeightView

__all__ = ["ChannelSVD"]


@dataclass(frozen=True, slots=True, repr=False)
class ChannelSVD(MatrixSpec):
    """A convolution as a smaller one to r channels and a 1×1 from them (the kernel as an o × i·Πk matrix).

    References:
        Zhang et al., Accelerating very deep convolutional networks (2015), arXiv 1505.06798.

    Example:
        >>> from tnkit.nn import ChannelSVD
        >>> ChannelSVD(rank=4)
        ChannelSVD(rank=4)
    """

    name: ClassVar[str] = "channel_svd"
    reads: ClassVar[tuple[str, ...]] = ("patches",)

    def form(self, view: WeightView, fitted: Fitted) -> tuple[Form, Mapping[str, Tensor]]:
        """Right factor as the k×k kernel, left factor as the 1×1; with pivots, only the other rows of it."""
        g, (m, n) = view.groups, view.shape
        left, right = (t.reshape(g, *t.shape[-2:]) for t in fitted.tensors())
        form = ChannelForm(g, m, n // prod(view.kernel), view.kernel, left.shape[2], bool(self.pivoted))
        return form, form.tensors_of(left, right)


LAYER_SPECS.register(ChannelSVD.name, ChannelSVD)
