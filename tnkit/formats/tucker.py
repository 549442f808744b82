"""Tucker: a core with one factor for each mode; and sums of such, block terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar

from torch import Tensor

from tnkit.errors import OptionError, ShapeError
from tnkit.formats.base import Format, as_format, require_axes, require_network
from tnkit.formats.layout import FormatSpec, Layout, require_shape
from tnkit.network import Topology
from tnkit.registry import FORMATS

__all__ = ["BTDSpec", "BlockTerm", "Tucker", "TuckerSpec"]


@lru_cache(maxsize=128)
def tucker_topology(d: int, *, terms: bool = False) -> Topology:
    """The core, then the factors (i_k, r_k); with `terms`, a hyperedge t in front of all."""
    first = ("t",) if terms else ()
    core = first + tuple(f"r{k}" for k in range(d))
    return Topology((core, *((*first, f"i{k}", f"r{k}") for k in range(d))), tuple(f"i{k}" for k in range(d)))


@as_format
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Tucker(Format):
    """Tucker, `abc,ia,jb,kc->ijk` (Tucker 1966, doi:10.1007/BF02289464).

    Attributes:
        core: (r_0 … r_{d-1}).
        factors: factor k has shape (n_k, r_k).

    Example:
        >>> import torch
        >>> Tucker.from_parts(torch.ones(2, 3), [torch.ones(4, 2), torch.ones(5, 3)]).shape
        (4, 5)
    """

    core: Tensor
    factors: tuple[Tensor, ...]
    name: ClassVar[str] = "tucker"

    @classmethod
    def from_parts(cls, core: Tensor, factors: Sequence[Tensor]) -> Tucker:
        """A checked Tucker tensor.

        Raises:
            ShapeError: the factors do not fit the core.
        """
        return cls.from_tensors((core, *factors))

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], **static: Any) -> Tucker:
        """The core, then the factors (see `from_parts`)."""
        _require_count(tensors, "Tucker")
        core, *factors = tensors
        value = cls(
            require_axes(core, len(factors), f"The Tucker core of {len(factors)} factors"),
            tuple(require_axes(f, 2, f"Tucker factor {k}") for k, f in enumerate(factors)),
        )
        require_network(value)
        return value

    def topology(self) -> Topology:
        """A star."""
        return tucker_topology(len(self.factors))

    def bonds(self) -> tuple[str, ...]:
        """r0 … r_{d-1}, one for each mode."""
        return tuple(f"r{k}" for k in range(len(self.factors)))


def _require_count(tensors: Sequence[Tensor], name: str) -> None:
    if len(tensors) < 2:
        raise ShapeError(f"{name} needs a core and at least one factor; {len(tensors)} tensors were given.")


@as_format
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BlockTerm(Format):
    """Sum of Tucker terms of equal ranks, `tabc,tia,tjb,tkc->ijk` (De Lathauwer 2008, doi:10.1137/070690729).

    Attributes:
        core: (t, r_0 … r_{d-1}).
        factors: factor k has shape (t, n_k, r_k).

    Example:
        >>> import torch
        >>> BlockTerm.from_parts(torch.ones(3, 2, 2), [torch.ones(3, 4, 2), torch.ones(3, 5, 2)]).to_dense()[0, 0]
        tensor(12.)
    """

    core: Tensor
    factors: tuple[Tensor, ...]
    name: ClassVar[str] = "btd"

    @classmethod
    def from_parts(cls, core: Tensor, factors: Sequence[Tensor]) -> BlockTerm:
        """A checked block-term tensor.

        Raises:
            ShapeError: the factors do not fit the core.
        """
        return cls.from_tensors((core, *factors))

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], **static: Any) -> BlockTerm:
        """The core, then the factors (see `from_parts`)."""
        _require_count(tensors, "BlockTerm")
        core, *factors = tensors
        value = cls(
            require_axes(core, len(factors) + 1, f"The block-term core of {len(factors)} factors"),
            tuple(require_axes(f, 3, f"block-term factor {k}") for k, f in enumerate(factors)),
        )
        require_network(value)
        return value

    @property
    def terms(self) -> int:
        """The number of Tucker terms."""
        return self.core.shape[0]

    def topology(self) -> Topology:
        """A star whose nodes all carry the hyperedge t."""
        return tucker_topology(len(self.factors), terms=True)

    def bonds(self) -> tuple[str, ...]:
        """r0 … r_{d-1}, one for each mode, the same in all terms."""
        return tuple(f"r{k}" for k in range(len(self.factors)))


def mode_caps(n: tuple[int, ...]) -> tuple[int, ...]:
    """The largest multilinear ranks: a mode's size, or the size of all the others."""
    return tuple(max(1, min(size, prod(n) // size)) for size in n)


@dataclass(frozen=True, slots=True)
class TuckerSpec(FormatSpec):
    """Tucker over the modes as they are."""

    name: ClassVar[str] = "tucker"

    def layout(self, shape: Sequence[int]) -> Layout:
        """Bonds r0 … r_{d-1}."""
        n = require_shape(shape, name="Tucker")
        d = len(n)
        sizes = {f"i{k}": n[k] for k in range(d)}
        caps = mode_caps(n)
        return Layout(self.name, Tucker, n, tucker_topology(d), sizes, tuple(f"r{k}" for k in range(d)), caps, caps)


@dataclass(frozen=True, slots=True)
class BTDSpec(FormatSpec):
    """Block terms over the modes as they are.

    Attributes:
        terms: how many Tucker terms.
    """

    terms: int = 2
    name: ClassVar[str] = "btd"

    def layout(self, shape: Sequence[int]) -> Layout:
        """Bonds r0 … r_{d-1}, the same in all terms; one term of full ranks is exact, so all of them are."""
        if self.terms < 1:
            raise OptionError(f"BTDSpec(terms={self.terms}) leaves nothing. Use terms >= 1.")
        n = require_shape(shape, name="A block-term tensor")
        d = len(n)
        sizes = {f"i{k}": n[k] for k in range(d)} | {"t": self.terms}
        caps = mode_caps(n)
        bonds = tuple(f"r{k}" for k in range(d))
        return Layout(self.name, BlockTerm, n, tucker_topology(d, terms=True), sizes, bonds, caps, caps)


FORMATS.register("tucker", TuckerSpec())
FORMATS.register("btd", BTDSpec())
