"""SlicedNorm: a norm over a residual stream that was rotated and cut, in the place of RMSNorm or LayerNorm."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

__all__ = ["SlicedNorm"]


class SlicedNorm(nn.Module):
    """y = T (x − u uᵀx) / √(‖x − u uᵀx‖² / whole + eps) + b for a stream x = Qᵀh of `width` coordinates.

    Attributes:
        width: coordinates of the stream.
        whole: dimensions of the stream before it was cut; the mean of squares is over these.
        eps: as the norm had it.
        mean: u = Qᵀ1/√whole, (width,); only where the norm took the mean away.
        turn: T, (out, width); only where the norm's own scale is not in the layers after it.
        bias: b, (out,); likewise.

    Example:
        >>> import torch
        >>> from tnkit.nn.sliced_norm import SlicedNorm
        >>> SlicedNorm(4, 4, 0.0)(torch.tensor([2.0, 2.0, 2.0, 2.0]))
        tensor([1., 1., 1., 1.])
    """

    kind: ClassVar[str] = "SlicedNorm"
    mean: nn.Parameter | None
    turn: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        width: int,
        whole: int,
        eps: float,
        *,
        centred: bool = False,
        out: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        """A norm of zeros; what makes or loads it fills it.

        Args:
            width: see the class.
            whole: see the class.
            eps: see the class.
            centred: whether there is `mean`.
            out: rows of `turn`, or 0 for none.
            dtype: of the parameters.
        """
        super().__init__()
        self.width, self.whole, self.eps, self.centred, self.out = width, whole, eps, centred, out

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape, dtype=dtype))

        self.register_parameter("mean", zeros(width) if centred else None)
        self.register_parameter("turn", zeros(out, width) if out else None)
        self.register_parameter("bias", zeros(out) if out else None)

    def forward(self, x: Tensor) -> Tensor:
        """In float32 at least."""
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.mean is not None:
            u = self.mean.to(h)
            h = h - (h @ u)[..., None] * u
        y = (h * torch.rsqrt(h.square().sum(-1, keepdim=True) / self.whole + self.eps)).to(x.dtype)
        return y if self.turn is None else nn.functional.linear(y, self.turn, self.bias)

    def config(self) -> dict[str, Any]:
        """The structure, JSON-able."""
        return {"width": self.width, "whole": self.whole, "eps": self.eps, "centred": self.centred, "out": self.out}

    @classmethod
    def from_config(cls, config: dict[str, Any], dtype: torch.dtype) -> Self:
        """A norm of that structure whose parameters hold zeros."""
        return cls(**config, dtype=dtype)

    @staticmethod
    def fits(layer: nn.Module) -> bool:
        """Whether this may stand where `layer` does."""
        return isinstance(layer, SlicedNorm | nn.LayerNorm) or type(layer).__name__.endswith("RMSNorm")

    def extra_repr(self) -> str:
        """What print shows."""
        return f"{self.width} of {self.whole}, eps={self.eps}" + (f", out={self.out}" if self.out else "")
