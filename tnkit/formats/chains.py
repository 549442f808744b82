"""Tensor train and tensor ring: chains of three-way cores, open and closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar

from torch import Tensor

from tnkit.errors import ShapeError
from tnkit.formats.base import Format, as_format, require_axes, require_network
from tnkit.formats.layout import FormatSpec, Layout, bond_caps, require_shape
from tnkit.network import Topology
from tnkit.registry import FORMATS

__all__ = ["TT", "RingSpec", "TTSpec", "TensorRing"]


@lru_cache(maxsize=128)
def chain_topology(d: int, *, closed: bool = False) -> Topology:
    """Core k carries (r_k, i_k, r_{k+1}); in a ring r_d is r_0. A ring of one core has no loop, and is a train."""
    close = closed and d > 1
    inputs = tuple((f"r{k}", f"i{k}", f"r{(k + 1) % d if close else k + 1}") for k in range(d))
    return Topology(inputs, tuple(f"i{k}" for k in range(d)))


@as_format
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TT(Format):
    """Tensor train, `ia,ajb,bk->ijk` (Oseledets 2011, doi:10.1137/090752286).

    Attributes:
        cores: core k has shape (r_k, n_k, r_{k+1}), with r_0 = r_d = 1.

    Example:
        >>> import torch
        >>> TT.from_cores([torch.ones(1, 2, 3), torch.ones(3, 4, 1)]).to_dense().shape
        torch.Size([2, 4])
    """

    cores: tuple[Tensor, ...]
    name: ClassVar[str] = "tt"

    @classmethod
    def from_cores(cls, cores: Sequence[Tensor]) -> TT:
        """A checked tensor train.

        Raises:
            ShapeError: cores that are not three-way, or whose ranks do not fit or do not end with 1.
        """
        return cls.from_tensors(cores)

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], **static: Any) -> TT:
        """See `from_cores`."""
        value = cls(tuple(require_axes(t, 3, f"TT core {k}") for k, t in enumerate(tensors)))
        require_open_chain(value, value.cores)
        return value

    def topology(self) -> Topology:
        """A chain."""
        return chain_topology(len(self.cores))

    def bonds(self) -> tuple[str, ...]:
        """r1 … r_{d-1}."""
        return tuple(f"r{k}" for k in range(1, len(self.cores)))


def require_open_chain(value: Format, cores: Sequence[Tensor]) -> None:
    """Refuse a chain without cores, with ends other than 1, or with ranks that do not fit.

    Raises:
        ShapeError: it is none.
    """
    name = type(value).__name__
    if not cores:
        raise ShapeError(f"{name} needs at least one core; there are none.")
    ends = (cores[0].shape[0], cores[-1].shape[-1])
    if ends != (1, 1):
        raise ShapeError(f"{name} needs cores whose first and last rank are 1; they are {ends[0]} and {ends[1]}.")
    require_network(value)


@as_format
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TensorRing(Format):
    """Tensor ring, `pia,ajb,bkp->ijk` (Zhao et al. 2016, arXiv:1606.05535).

    Attributes:
        cores: core k has shape (r_k, n_k, r_{k+1 mod d}).

    Example:
        >>> import torch
        >>> TensorRing.from_cores([torch.ones(2, 4, 3), torch.ones(3, 5, 2)]).ranks
        (2, 3)
    """

    cores: tuple[Tensor, ...]
    name: ClassVar[str] = "tr"

    @classmethod
    def from_cores(cls, cores: Sequence[Tensor]) -> TensorRing:
        """A checked tensor ring.

        Raises:
            ShapeError: cores that are not three-way, or whose ranks do not close the ring.
        """
        return cls.from_tensors(cores)

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], **static: Any) -> TensorRing:
        """See `from_cores`."""
        value = cls(tuple(require_axes(t, 3, f"ring core {k}") for k, t in enumerate(tensors)))
        if len(value.cores) < 2:
            require_open_chain(value, value.cores)
        require_network(value)
        return value

    def topology(self) -> Topology:
        """A closed chain."""
        return chain_topology(len(self.cores), closed=True)

    def bonds(self) -> tuple[str, ...]:
        """r0 … r_{d-1}; r0 closes the ring."""
        return ring_bonds(len(self.cores))


def ring_bonds(d: int) -> tuple[str, ...]:
    """The bonds of a ring; a ring of one core has none."""
    return tuple(f"r{k}" for k in range(d)) if d > 1 else ()


@dataclass(frozen=True, slots=True)
class TTSpec(FormatSpec):
    """Tensor train over the modes as they are."""

    name: ClassVar[str] = "tt"

    def layout(self, shape: Sequence[int]) -> Layout:
        """Bonds r1 … r_{d-1}; r_k is at most the smaller side of its cut."""
        n = require_shape(shape, name="A tensor train")
        d = len(n)
        topology = chain_topology(d)
        sizes = {f"i{k}": n[k] for k in range(d)} | {"r0": 1, f"r{d}": 1}
        bonds = tuple(f"r{k}" for k in range(1, d))
        caps = bond_caps(topology, sizes, bonds)
        return Layout(self.name, TT, n, topology, sizes, bonds, caps, caps, closing="ones")


@dataclass(frozen=True, slots=True)
class RingSpec(FormatSpec):
    """Tensor ring over the modes as they are."""

    name: ClassVar[str] = "tr"

    def layout(self, shape: Sequence[int]) -> Layout:
        """Bonds r0 … r_{d-1}. Every array is a ring with r0 = 1, which is a tensor train."""
        n = require_shape(shape, name="A tensor ring")
        d = len(n)
        if d == 1:
            sizes = {"i0": n[0], "r0": 1, "r1": 1}
            return Layout(self.name, TensorRing, n, chain_topology(1), sizes, (), (), (), closing="cyclic")
        topology = chain_topology(d, closed=True)
        sizes = {f"i{k}": n[k] for k in range(d)}
        train = TTSpec().layout(n).caps
        caps = tuple(_ring_cap(n, k) for k in range(d))
        return Layout(self.name, TensorRing, n, topology, sizes, ring_bonds(d), caps, (1, *train), closing="cyclic")


def _ring_cap(n: tuple[int, ...], k: int) -> int:
    """The largest rank of a cut that starts before core k: with the other bond of that cut at 1 it is exact."""
    total, turned = prod(n), n[k:] + n[:k]
    return max(min(prod(turned[:m]), total // prod(turned[:m])) for m in range(1, len(n)))


FORMATS.register("tt", TTSpec())
FORMATS.register("tr", RingSpec())
