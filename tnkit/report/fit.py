"""FitReport: what a decomposition gave, and what was lost.

Example:
    >>> import numpy as np, tnkit as tk
    >>> fit = tk.decompose(np.ones((4, 5, 6)), "tt", eps=1e-2)
    >>> fit.status.ok, fit.tensor.ranks, fit.n_params
    (True, (1, 1), 15)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tnkit.formats import Format
from tnkit.solvers import Status, StepInfo

__all__ = ["FitReport"]


@dataclass(frozen=True, slots=True, repr=False)
class FitReport:
    """The result of `decompose`.

    Attributes:
        tensor: the format.
        rel_error: ‖x − x̂‖/‖x‖ (0 for a zero array that is met exactly).
        error_kind: "exact" (measured, or known to 1 %), "bound" (never below the true one) or "estimate".
        status: how it ended; its text says what to do where it is not ok.
        method: the name of the method.
        why: one sentence on how the method was chosen.
        elapsed_s: seconds in all.
        history: the steps of iterative methods.
        target: what was asked, in words.
        evaluations: entries that were asked of a function (each counted once), where the array is one.
    """

    tensor: Format
    rel_error: float
    error_kind: str
    status: Status
    method: str
    why: str
    elapsed_s: float
    history: tuple[StepInfo, ...] = ()
    target: str = ""
    evaluations: int | None = None

    @property
    def n_params(self) -> int:
        """Stored real numbers."""
        return self.tensor.n_params

    @property
    def nbytes(self) -> int:
        """Bytes of the stored tensors."""
        return self.tensor.nbytes

    @property
    def compression_ratio(self) -> float:
        """Dense real numbers over stored ones."""
        return self.tensor.compression_ratio

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks."""
        return self.tensor.ranks

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "format": self.tensor.name,
            "shape": list(self.tensor.shape),
            "dtype": str(self.tensor.dtype).removeprefix("torch."),
            "ranks": list(self.ranks),
            "n_params": self.n_params,
            "nbytes": self.nbytes,
            "compression_ratio": self.compression_ratio,
            "rel_error": self.rel_error,
            "error_kind": self.error_kind,
            "status": self.status.name,
            "status_message": self.status.message,
            "ok": self.status.ok,
            "method": self.method,
            "why": self.why,
            "elapsed_s": self.elapsed_s,
            "target": self.target,
            "evaluations": self.evaluations,
            "history": [[s.step, s.error, s.elapsed_s] for s in self.history],
        }

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict())

    def __repr__(self) -> str:
        """A readable summary."""
        ratio = self.compression_ratio
        size = f"{ratio:,.4g} times smaller" if ratio >= 1 else f"{1 / ratio:,.4g} times LARGER than the array"
        kind = {"exact": "", "bound": " at most", "estimate": " estimated"}.get(self.error_kind, "")
        lines = [
            repr(self.tensor),
            f"  relative error{kind} {self.rel_error:.3g}   asked: {self.target or 'nothing'}",
            f"  {self.n_params:,} numbers, {size}, {self.nbytes:,} bytes",
            *([] if self.evaluations is None else [f"  {self.evaluations:,} evaluations of the function"]),
            f"  method {self.method}: {self.why}" if self.why else f"  method {self.method}",
            f"  {self.status} ({self.elapsed_s:.3g} s" + (f", {len(self.history)} steps)" if self.history else ")"),
        ]
        return "\n".join(lines)
