"""W = B A: two factors, or the pivoted form with r(m + n − r) numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from tnkit.nn.forms.base import FORMS, Factors, MatrixForm
from tnkit.nn.forms.steps import is_traced
from tnkit.nn.pivot import pivot_rows

__all__ = ["LowRankForm", "Pivots"]

#: Multiplications that take as long as to move one number to its place, as measured on a CPU; and from how many rows
#: for each rank the factors are written out.
GATHER, MANY = 96, 2

Pivots: TypeAlias = Literal["none", "rows", "columns"]


@dataclass(frozen=True, slots=True)
class LowRankForm(MatrixForm):
    """Two factors. With `pivots="rows"` B is P [I; C] and only C is held; with "columns" A is [I C] P.

    Attributes:
        rank: r.
        pivots: which form.

    Parameters: left (m, r), or C (m − r, r) with row pivots; right (r, n), or C (r, n − r) with column pivots. With
    pivots a buffer `order` says where pivots and others stand.

    Example:
        >>> LowRankForm(4, 6, 2, "rows").parameters()
        {'left': (2, 2), 'right': (2, 6)}
    """

    rank: int
    pivots: Pivots = "none"
    kind: ClassVar[str] = "low_rank"

    @staticmethod
    def of(left: Tensor, right: Tensor, *, pivoted: bool) -> tuple[LowRankForm, dict[str, Tensor]]:
        """The form of B (m, r) and A (r, n), and its tensors; pivots are chosen on the smaller side."""
        (m, r), n = left.shape, right.shape[1]
        if not pivoted:
            return LowRankForm(m, n, r), {"left": left, "right": right}
        if m <= n:
            rows, others, c = pivot_rows(left)
            order = torch.cat([rows, others]).argsort()
            return LowRankForm(m, n, r, "rows"), {"left": c, "right": left[rows] @ right, "order": order}
        columns, others, c = pivot_rows(right.mT)
        order = torch.cat([columns, others])
        return LowRankForm(m, n, r, "columns"), {"left": left @ right[:, columns], "right": c.mT, "order": order}

    @property
    def ranks(self) -> tuple[int, ...]:
        """One."""
        return (self.rank,)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """`left` and `right`."""
        rows = self.m - self.rank if self.pivots == "rows" else self.m
        columns = self.n - self.rank if self.pivots == "columns" else self.n
        return {"left": (rows, self.rank), "right": (self.rank, columns)}

    def buffers(self) -> dict[str, Tensor]:
        """`order`, with pivots."""
        if self.pivots == "none":
            return {}
        return {"order": torch.arange(self.m if self.pivots == "rows" else self.n)}

    def two_factors(self, t: Factors) -> tuple[Tensor, Tensor]:
        """B (m, r) and A (r, n), written out."""
        left, right = t["left"], t["right"]
        eye = torch.eye(self.rank, dtype=left.dtype, device=left.device)
        if self.pivots == "rows":
            return torch.cat([eye, left]).index_select(0, t["order"]), right
        if self.pivots == "columns":
            return left, torch.cat([eye, right], dim=1).index_select(1, t["order"].argsort())
        return left, right

    def dense(self, t: Factors) -> Tensor:
        """The product."""
        left, right = t["left"], t["right"]
        if self.pivots == "rows":
            return torch.cat([right, left @ right]).index_select(0, t["order"])
        if self.pivots == "columns":
            return torch.cat([left, left @ right], dim=1).index_select(1, t["order"].argsort())
        return left @ right

    def apply(self, t: Factors, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """r(m + n) or r(m + n − r) multiplications for each row; two whole factors where a gather would take longer."""
        if self._writes_out(x):
            left, right = self.two_factors(t)
            return F.linear(F.linear(x, right), left, bias)
        left, right = t["left"], t["right"]
        if self.pivots == "rows":
            z = F.linear(x, right)
            y = torch.cat([z, F.linear(z, left)], dim=-1).index_select(-1, t["order"])
            return y if bias is None else y + bias
        if self.pivots == "columns":
            pivots, others = x.index_select(-1, t["order"]).split([self.rank, self.n - self.rank], dim=-1)
            return F.linear(pivots + F.linear(others, right), left, bias)
        return F.linear(F.linear(x, right), left, bias)

    def _writes_out(self, x: Tensor) -> bool:
        """Whether r² more multiplications for each of many rows cost less than to put its m or n numbers in order."""
        if self.pivots == "none" or is_traced(x):
            return False
        if self.rank * (self.m + self.n) >= self.m * self.n:  # never more than the dense layer
            return False
        side = self.m if self.pivots == "rows" else self.n
        return x.numel() >= self.n * MANY * self.rank and self.rank**2 <= GATHER * side

    def pick(self, t: Factors, ids: Tensor) -> Tensor:
        """Rows of B, times A."""
        left, right = t["left"], t["right"]
        if self.pivots == "rows":  # row k of W is row order[k] of [I; C], times A
            whole = torch.cat([torch.eye(self.rank, dtype=left.dtype, device=left.device), left])
            return F.embedding(t["order"][ids], whole) @ right
        rows = F.embedding(ids, left)
        if self.pivots == "columns":
            return torch.cat([rows, rows @ right], dim=-1).index_select(-1, t["order"].argsort())
        return rows @ right


FORMS.register(LowRankForm.kind, LowRankForm)
