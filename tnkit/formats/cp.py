"""CP: a sum of rank-one terms that share one hyperedge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar

from torch import Tensor

from tnkit.errors import ShapeError
from tnkit.formats.base import Format, as_format, require_axes, require_network
from tnkit.formats.layout import FormatSpec, Layout, require_shape
from tnkit.network import Topology
from tnkit.registry import FORMATS

__all__ = ["CP", "CPSpec"]


@lru_cache(maxsize=128)
def cp_topology(d: int) -> Topology:
    """Weights r, then the factors (i_k, r)."""
    return Topology((("r",), *((f"i{k}", "r") for k in range(d))), tuple(f"i{k}" for k in range(d)))


@as_format
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CP(Format):
    """Canonical polyadic form, `r,ir,jr,kr->ijk` (Hitchcock 1927; review doi:10.1137/07070111X).

    Attributes:
        weights: (r,).
        factors: factor k has shape (n_k, r).

    Example:
        >>> import torch
        >>> CP.from_parts(torch.ones(2), [torch.ones(4, 2), torch.ones(5, 2)]).to_dense()[0, 0]
        tensor(2.)
    """

    weights: Tensor
    factors: tuple[Tensor, ...]
    name: ClassVar[str] = "cp"

    @classmethod
    def from_parts(cls, weights: Tensor, factors: Sequence[Tensor]) -> CP:
        """A checked CP tensor.

        Raises:
            ShapeError: the factors do not fit the weights.
        """
        return cls.from_tensors((weights, *factors))

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], **static: Any) -> CP:
        """The weights, then the factors (see `from_parts`)."""
        if len(tensors) < 2:
            raise ShapeError(f"CP needs weights and at least one factor; {len(tensors)} tensors were given.")
        weights, *factors = tensors
        value = cls(
            require_axes(weights, 1, "CP weights"),
            tuple(require_axes(f, 2, f"CP factor {k}") for k, f in enumerate(factors)),
        )
        require_network(value)
        return value

    def topology(self) -> Topology:
        """One hyperedge through all nodes."""
        return cp_topology(len(self.factors))

    def bonds(self) -> tuple[str, ...]:
        """The hyperedge r."""
        return ("r",)


@dataclass(frozen=True, slots=True)
class CPSpec(FormatSpec):
    """CP over the modes as they are."""

    name: ClassVar[str] = "cp"

    def layout(self, shape: Sequence[int]) -> Layout:
        """One bond; as many terms as there are entries beside the largest mode represent anything."""
        n = require_shape(shape, name="CP")
        caps = (prod(n) // max(n),)
        sizes = {f"i{k}": size for k, size in enumerate(n)}
        return Layout(self.name, CP, n, cp_topology(len(n)), sizes, ("r",), caps, caps)


FORMATS.register("cp", CPSpec())
