"""k×1 (i → r) · 1×k (r → o): the kernel as an (i·k_0) × (o·k_1…) matrix of low rank."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.nn.forms.base import FORMS, Factors, KernelForm
from tnkit.nn.forms.convolution import Convolution

__all__ = ["SpatialForm"]


@dataclass(frozen=True, slots=True)
class SpatialForm(KernelForm):
    """Two convolutions, one along the first axis and one along the others, each with its own part of every option.

    Attributes:
        rank: r of each group.

    Parameters: first (g·r, i/g, k_0, 1…), last (o, r, 1, k_1…).
    """

    rank: int
    kind: ClassVar[str] = "spatial"

    @property
    def ranks(self) -> tuple[int, ...]:
        """One."""
        return (self.rank,)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Two kernels."""
        ones = self.ones()
        return {
            "first": (self.groups * self.rank, self.ins, self.kernel[0], *ones[1:]),
            "last": (self.groups * self.outs, self.rank, 1, *self.kernel[1:]),
        }

    def dense(self, t: Factors) -> Tensor:
        """The product."""
        g, rest = self.groups, prod(self.kernel[1:])
        first = t["first"].reshape(g, self.rank, self.ins, self.kernel[0])
        last = t["last"].reshape(g, self.outs, self.rank, rest)
        return torch.einsum("gorw,grih->goihw", last, first).reshape(g, self.outs, self.ins, *self.kernel)

    def convolve(self, t: Factors, x: Tensor, how: Convolution) -> Tensor:
        """Along the first axis, then along the others."""
        d = len(self.kernel)
        x = how.along((0,))(x, t["first"], self.groups)
        return how.along(tuple(range(1, d)))(x, t["last"], self.groups)


FORMS.register(SpatialForm.kind, SpatialForm)
