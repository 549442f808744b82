"""W = B A + S: low rank and a sparse matrix whose positions are fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tnkit.nn.forms.base import FORMS, Factors, MatrixForm

__all__ = ["SparseForm"]


@dataclass(frozen=True, slots=True)
class SparseForm(MatrixForm):
    """Low rank and sparse.

    Attributes:
        rank: r.
        nnz: entries of S.

    Parameters: left (m, r), right (r, n), values (nnz,); a buffer `positions` (nnz,) counts entries row by row.

    References:
        Han et al., SLTrain (2024), arXiv 2406.02214.
    """

    rank: int
    nnz: int
    kind: ClassVar[str] = "low_rank_sparse"

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank and the number of entries."""
        return (self.rank, self.nnz)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Two factors and the entries."""
        return {"left": (self.m, self.rank), "right": (self.rank, self.n), "values": (self.nnz,)}

    def buffers(self) -> dict[str, Tensor]:
        """Where the entries stand."""
        return {"positions": torch.arange(self.nnz)}

    def sparse(self, t: Factors) -> Tensor:
        """S as a dense matrix."""
        flat = t["values"].new_zeros(self.m * self.n)
        whole: Tensor = flat.index_put((t["positions"],), t["values"])
        return whole.reshape(self.m, self.n)

    def dense(self, t: Factors) -> Tensor:
        """The sum."""
        return t["left"] @ t["right"] + self.sparse(t)

    def apply(self, t: Factors, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Two products and a sparse one; while torch traces, S is made dense."""
        low = F.linear(F.linear(x, t["right"]), t["left"], bias)
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.dtype not in (torch.float32, torch.float64):
            return low + F.linear(x, self.sparse(t))
        if type(x) not in (Tensor, torch.nn.Parameter):
            return low + F.linear(x, self.sparse(t))
        at = torch.stack([t["positions"] // self.n, t["positions"] % self.n])
        s = torch.sparse_coo_tensor(at, t["values"], (self.m, self.n), check_invariants=False)
        rows = torch.sparse.mm(s, x.reshape(-1, self.n).mT).mT
        y: Tensor = low + rows.reshape(low.shape)
        return y


FORMS.register(SparseForm.kind, SparseForm)
