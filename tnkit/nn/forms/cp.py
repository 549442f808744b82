"""1×1 (i → R) · one depthwise convolution for each axis · 1×1 (R → o): a kernel as a sum of rank-one terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.nn.forms.base import FORMS, Factors, KernelForm
from tnkit.nn.forms.convolution import Convolution
from tnkit.nn.forms.pointwise import pointwise

__all__ = ["CPForm"]


@dataclass(frozen=True, slots=True)
class CPForm(KernelForm):
    """Lebedev's stages.

    Attributes:
        rank: R of each group.

    Parameters: first (g·R, i/g, 1…), axis0 (g·R, 1, k_0, 1…), axis1 …, last (o, R, 1…).
    """

    rank: int
    kind: ClassVar[str] = "cp"

    @property
    def ranks(self) -> tuple[int, ...]:
        """One."""
        return (self.rank,)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Kernels that are 1 but along their own axis."""
        d, width = len(self.kernel), self.groups * self.rank
        axes = {f"axis{k}": (width, 1, *(n if j == k else 1 for j in range(d))) for k, n in enumerate(self.kernel)}
        first = {"first": (width, self.ins, *self.ones())}
        return {**first, **axes, "last": (self.groups * self.outs, self.rank, *self.ones())}

    def dense(self, t: Factors) -> Tensor:
        """The sum of the terms."""
        g, r = self.groups, self.rank
        whole = t["first"].reshape(g, r, self.ins)
        for k, n in enumerate(self.kernel):
            axis = t[f"axis{k}"].reshape(g, r, n)
            whole = whole[..., None] * axis.reshape(g, r, *(1,) * (k + 1), n)
        last = t["last"].reshape(g, self.outs, r)
        return torch.einsum("gor,grx->gox", last, whole.flatten(2)).reshape(g, self.outs, self.ins, *self.kernel)

    def convolve(self, t: Factors, x: Tensor, how: Convolution) -> Tensor:
        """Stage by stage."""
        x = pointwise(x, t["first"], self.groups)
        for k in range(len(self.kernel)):
            x = how.along((k,))(x, t[f"axis{k}"], self.groups * self.rank)
        return pointwise(x, t["last"], self.groups)


FORMS.register(CPForm.kind, CPForm)
