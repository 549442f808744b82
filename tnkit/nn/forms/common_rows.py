"""W = P [C; B A]: some rows as they are, and low rank for the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tnkit.nn.forms.base import FORMS, Factors, MatrixForm

__all__ = ["CommonRowsForm"]


@dataclass(frozen=True, slots=True)
class CommonRowsForm(MatrixForm):
    """Rows of two kinds.

    Attributes:
        common: how many are held as they are.
        rank: r of the others.

    Parameters: rows (c, n), left (m − c, r), right (r, n); a buffer `order` (m,) says where each row of W stands among
    the common ones and then the others.
    """

    common: int
    rank: int
    kind: ClassVar[str] = "common_rows"

    @property
    def ranks(self) -> tuple[int, ...]:
        """How many rows are held, and the rank of the others."""
        return (self.common, self.rank)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Rows and two factors."""
        return {
            "rows": (self.common, self.n),
            "left": (self.m - self.common, self.rank),
            "right": (self.rank, self.n),
        }

    def buffers(self) -> dict[str, Tensor]:
        """Where the rows stand."""
        return {"order": torch.arange(self.m)}

    def dense(self, t: Factors) -> Tensor:
        """Both kinds, in order."""
        return torch.cat([t["rows"], t["left"] @ t["right"]]).index_select(0, t["order"])

    def apply(self, t: Factors, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """For each row of x c·n + r(m − c + n) multiplications."""
        others = F.linear(F.linear(x, t["right"]), t["left"])
        y = torch.cat([F.linear(x, t["rows"]), others], dim=-1).index_select(-1, t["order"])
        return y if bias is None else y + bias

    def pick(self, t: Factors, ids: Tensor) -> Tensor:
        """A look-up in the one part or in the other; both are made, and one is taken."""
        place = t["order"][ids]
        held = F.embedding(place.clamp_max(self.common - 1), t["rows"])
        made = F.embedding((place - self.common).clamp_min(0), t["left"]) @ t["right"]
        return torch.where((place < self.common)[..., None], held, made)


FORMS.register(CommonRowsForm.kind, CommonRowsForm)
