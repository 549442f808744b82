"""1×1 (i → R_i) · k×k (R_i → R_o) · 1×1 (R_o → o): a kernel with both channel modes truncated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.nn.forms.base import FORMS, Factors, KernelForm
from tnkit.nn.forms.convolution import Convolution
from tnkit.nn.forms.pointwise import pointwise

__all__ = ["Tucker2Form"]


@dataclass(frozen=True, slots=True)
class Tucker2Form(KernelForm):
    """Three convolutions; stride, padding and dilation are the middle one's, or the first one's of a 1×1 kernel.

    Attributes:
        r_out: R_o of each group.
        r_in: R_i of each group.

    Parameters: first (g·R_i, i/g, 1…), core (g·R_o, R_i, *k), last (o, R_o, 1…).
    """

    r_out: int
    r_in: int
    kind: ClassVar[str] = "tucker2"

    @property
    def ranks(self) -> tuple[int, ...]:
        """(R_o, R_i)."""
        return (self.r_out, self.r_in)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Three kernels."""
        g, ones = self.groups, self.ones()
        return {
            "first": (g * self.r_in, self.ins, *ones),
            "core": (g * self.r_out, self.r_in, *self.kernel),
            "last": (g * self.outs, self.r_out, *ones),
        }

    def dense(self, t: Factors) -> Tensor:
        """The product of the three."""
        g = self.groups
        core = t["core"].unflatten(0, (g, -1)).flatten(3)
        core = torch.einsum("gack,gci->gaik", core, t["first"].reshape(g, self.r_in, self.ins))
        whole = torch.einsum("goa,gaik->goik", t["last"].reshape(g, self.outs, self.r_out), core)
        return whole.reshape(g, self.outs, self.ins, *self.kernel)

    def convolve(self, t: Factors, x: Tensor, how: Convolution) -> Tensor:
        """Stage by stage."""
        first = self.is_pointwise and not how.transposed  # the stride of a 1×1 kernel goes where it saves most
        x = how(x, t["first"], self.groups) if first else pointwise(x, t["first"], self.groups)
        x = pointwise(x, t["core"], self.groups) if first else how(x, t["core"], self.groups)
        return pointwise(x, t["last"], self.groups)


FORMS.register(Tucker2Form.kind, Tucker2Form)
