"""k×k (i → r) · 1×1 (r → o): the kernel as an o × i·Πk matrix of low rank, in two factors or pivoted."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.nn.forms.base import FORMS, Factors, KernelForm
from tnkit.nn.forms.convolution import Convolution
from tnkit.nn.forms.pointwise import pointwise
from tnkit.nn.pivot import pivot_rows

__all__ = ["ChannelForm"]


@dataclass(frozen=True, slots=True)
class ChannelForm(KernelForm):
    """Two convolutions; with `pivoted`, r of the output channels of each group are those of the first.

    Attributes:
        rank: r of each group.
        pivoted: whether only the others are mixed.

    Parameters: core (g·r, i/g, *k), last (o, r, 1…), or (o − g·r, r, 1…) where it is pivoted; a buffer `order` then
    says where each output channel stands.
    """

    rank: int
    pivoted: bool = False
    kind: ClassVar[str] = "channel"

    def tensors_of(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        """The tensors of this form that stand for B (g, o, r) times A (g, r, i·Πk)."""
        if not self.pivoted:
            return {"core": right, "last": left}
        last, core, order = _pivoted(left, right)
        return {"core": core, "last": last, "order": order}

    @property
    def ranks(self) -> tuple[int, ...]:
        """One."""
        return (self.rank,)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Two kernels."""
        g, rows = self.groups, self.outs - (self.rank if self.pivoted else 0)
        return {"core": (g * self.rank, self.ins, *self.kernel), "last": (g * rows, self.rank, *self.ones())}

    def buffers(self) -> dict[str, Tensor]:
        """`order`, if pivoted."""
        return {"order": torch.arange(self.groups * self.outs)} if self.pivoted else {}

    def dense(self, t: Factors) -> Tensor:
        """The product."""
        g = self.groups
        core = t["core"].reshape(g, self.rank, self.ins * prod(self.kernel))
        last = t["last"].reshape(g, self.outs - (self.rank if self.pivoted else 0), self.rank)
        rows = last @ core
        if self.pivoted:
            rows = torch.cat([core.flatten(0, 1), rows.flatten(0, 1)]).index_select(0, t["order"])
        return rows.reshape(g, self.outs, self.ins, *self.kernel)

    def convolve(self, t: Factors, x: Tensor, how: Convolution) -> Tensor:
        """Stage by stage."""
        x = how(x, t["core"], self.groups)
        if not self.pivoted:
            return pointwise(x, t["last"], self.groups)
        axis = -1 - len(self.kernel)
        if self.outs > self.rank:  # at rank o every channel is a pivot
            x = torch.cat([x, pointwise(x, t["last"], self.groups)], dim=axis)
        return x.index_select(axis, t["order"])


def _pivoted(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """C and pivot rows for each group, and where each of the o channels stands in (all pivots, all others)."""
    g, m, r = left.shape
    cs, kept, places = [], [], torch.empty(g, m, dtype=torch.long, device=left.device)
    for k in range(g):
        rows, others, c = pivot_rows(left[k])
        cs.append(c)
        kept.append(left[k][rows] @ right[k])
        places[k, rows] = torch.arange(r, device=left.device) + k * r
        places[k, others] = torch.arange(m - r, device=left.device) + g * r + k * (m - r)
    return torch.stack(cs), torch.stack(kept), places.flatten()


FORMS.register(ChannelForm.kind, ChannelForm)
