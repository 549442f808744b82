"""Forms of matrices that lost rows or columns: of another size, or of the old size with zeros where nothing is held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tnkit.nn.forms.base import FORMS, Factors, MatrixForm

__all__ = ["PartialForm", "ResizedForm"]


@dataclass(frozen=True, slots=True)
class ResizedForm(MatrixForm):
    """A dense matrix (m, n) in the place of one of another size; its neighbours changed with it.

    Example:
        >>> ResizedForm(4, 6).parameters()
        {'part': (4, 6)}
    """

    kind: ClassVar[str] = "resized"

    @property
    def ranks(self) -> tuple[int, ...]:
        """Its size."""
        return (self.m, self.n)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """`part`."""
        return {"part": (self.m, self.n)}

    def dense(self, t: Factors) -> Tensor:
        """A copy: who writes into a layer's weight, as initialisers do, does not mean the parameter."""
        return t["part"].clone()

    def apply(self, t: Factors, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """One product."""
        return F.linear(x, t["part"], bias)


@dataclass(frozen=True, slots=True)
class PartialForm(MatrixForm):
    """A matrix (m, n) of which only some rows, or columns, are held; the others are zero.

    Attributes:
        count: how many.
        side: "rows" or "columns".

    Parameters: part (count, n) or (m, count). A buffer `kept` says which they are.

    Example:
        >>> PartialForm(4, 6, 2, "columns").parameters()
        {'part': (4, 2)}
    """

    count: int
    side: Literal["rows", "columns"]
    kind: ClassVar[str] = "partial"

    @property
    def ranks(self) -> tuple[int, ...]:
        """The count."""
        return (self.count,)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """`part`."""
        return {"part": (self.count, self.n) if self.side == "rows" else (self.m, self.count)}

    def buffers(self) -> dict[str, Tensor]:
        """`kept`."""
        return {"kept": torch.arange(self.count)}

    def dense(self, t: Factors) -> Tensor:
        """With the zeros."""
        part = t["part"]
        return part.new_zeros(self.m, self.n).index_copy(0 if self.side == "rows" else 1, t["kept"], part)

    def apply(self, t: Factors, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The product of what is held."""
        if self.side == "columns":
            return F.linear(x.index_select(-1, t["kept"]), t["part"], bias)
        y = F.linear(x, t["part"])
        if bias is None:
            whole = y.new_zeros(*x.shape[:-1], self.m)
        else:
            whole = bias.expand(*x.shape[:-1], self.m)
            y = y + bias.index_select(0, t["kept"])
        return whole.index_copy(-1, t["kept"], y)


FORMS.register(ResizedForm.kind, ResizedForm)
FORMS.register(PartialForm.kind, PartialForm)
