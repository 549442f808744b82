"""Tubal SVD: the t-product of two tensors, a matrix product in the Fourier domain of the modes after the second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from torch import Tensor

from tnkit.errors import ShapeError
from tnkit.formats.base import Format, as_format, require_network
from tnkit.formats.layout import FormatSpec, Layout, require_shape
from tnkit.network import DFT, Topology
from tnkit.network.constants import Constant
from tnkit.registry import FORMATS
from tnkit.tensorize import Tensorization

__all__ = ["TubalSVD", "TubalSpec"]


@lru_cache(maxsize=128)
def tubal_topology(depths: tuple[int, ...]) -> Topology:
    """Left (i0, r, s…) and right (r, i1, t…); each s_k, t_k goes by a DFT to one frequency f_k, and back to i_k."""
    modes = range(2, 2 + len(depths))
    left = ("i0", "r", *(f"s{k}" for k in modes))
    right = ("r", "i1", *(f"t{k}" for k in modes))
    inputs: list[tuple[str, ...]] = [left, right]
    constants: list[Constant | None] = [None, None]
    for k, n in zip(modes, depths, strict=True):
        inputs += [(f"f{k}", f"s{k}"), (f"f{k}", f"t{k}"), (f"i{k}", f"f{k}")]
        constants += [DFT(n), DFT(n), DFT(n, inverse=True)]
    return Topology(tuple(inputs), ("i0", "i1", *(f"i{k}" for k in modes)), tuple(constants))


@as_format
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TubalSVD(Format):
    """Truncated t-SVD, left * right (Kilmer & Martin 2011, doi:10.1016/j.laa.2010.09.020; doi:10.1137/110841229).

    Real outside, complex inside: the stored slices of a real tensor are real, the Fourier matrices are constants.

    Attributes:
        left: (n_0, r, n_2 …).
        right: (r, n_1, n_2 …).

    Example:
        >>> import torch
        >>> TubalSVD.from_parts(torch.ones(4, 2, 3), torch.ones(2, 5, 3)).to_dense().dtype
        torch.float32
    """

    left: Tensor
    right: Tensor
    name: ClassVar[str] = "tubal"

    @classmethod
    def from_parts(cls, left: Tensor, right: Tensor) -> TubalSVD:
        """A checked t-product.

        Raises:
            ShapeError: the factors do not fit.
        """
        return cls.from_tensors((left, right))

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], **static: Any) -> TubalSVD:
        """See `from_parts`."""
        if len(tensors) != 2 or any(t.ndim < 2 for t in tensors) or tensors[0].ndim != tensors[1].ndim:
            raise ShapeError(
                "TubalSVD needs two tensors (n0, r, n2 …) and (r, n1, n2 …) of equally many axes, at least 2."
            )
        left, right = tensors
        if left.shape[2:] != right.shape[2:] or left.shape[1] != right.shape[0] or 0 in left.shape or 0 in right.shape:
            raise ShapeError(
                f"TubalSVD factors {tuple(left.shape)}, {tuple(right.shape)} do not fit: (n0, r, n2 …), (r, n1, n2 …)."
            )
        value = cls(left, right)
        require_network(value)
        return value

    def topology(self) -> Topology:
        """Two nodes, and three Fourier matrices for each mode after the second."""
        return tubal_topology(tuple(self.left.shape[2:]))

    def bonds(self) -> tuple[str, ...]:
        """The tubal rank r."""
        return ("r",)


@dataclass(frozen=True, slots=True)
class TubalSpec(FormatSpec):
    """Tubal SVD over the modes as they are: matrices along modes 0 and 1, tubes along the others."""

    name: ClassVar[str] = "tubal"

    def layout(self, shape: Sequence[int]) -> Layout:
        """One bond, the tubal rank; a single mode is taken as a column."""
        n = require_shape(shape, name="A tubal SVD")
        plan = Tensorization.start(n).reshape((n[0], 1)) if len(n) == 1 else None
        full = (n[0], 1) if len(n) == 1 else n
        sizes = {f"i{k}": size for k, size in enumerate(full)}
        for k in range(2, len(full)):
            sizes |= {f"s{k}": full[k], f"t{k}": full[k], f"f{k}": full[k]}
        cap = (min(full[:2]),)
        return Layout(self.name, TubalSVD, n, tubal_topology(full[2:]), sizes, ("r",), cap, cap, tensorization=plan)


FORMATS.register("tubal", TubalSpec())
