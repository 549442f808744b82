"""Layout: how a format lies over an array of a given shape, before any rank is chosen.

Random formats, alternating least squares, completion, rank rules and counting are written once on this.

Example:
    >>> from tnkit.formats import TTSpec
    >>> layout = TTSpec().layout((4, 5, 6))
    >>> layout.bonds, layout.max_ranks, layout.n_params((2, 3))
    (('r1', 'r2'), (4, 6), 56)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from tnkit.errors import ShapeError
from tnkit.network import Topology
from tnkit.tensorize import Tensorization

if TYPE_CHECKING:
    from tnkit.formats.base import Format

__all__ = ["FormatSpec", "Layout", "bond_caps", "matricization", "require_shape"]


@dataclass(frozen=True, eq=False)
class Layout:
    """A format over a shape.

    Attributes:
        name: the format's name, for messages.
        format: its class.
        shape: of the user's array.
        topology: of the tensors; its open labels are the modes of the tensorized array.
        sizes: of every label that is no bond.
        bonds: the labels whose sizes are the ranks, in the order of the rank tuple.
        caps: the largest useful rank of each bond.
        max_ranks: ranks at which every array of this shape is represented exactly; None where there are none.
        static: what the format stores beside its tensors.
        tensorization: from the user's array to the tensor that is decomposed; None if they are the same.
        closing: what d + 1 entries of a rank tuple mean: "ones" (1 at both ends), "cyclic" (first = last) or "".
    """

    name: str
    format: type[Format]
    shape: tuple[int, ...]
    topology: Topology
    sizes: Mapping[str, int]
    bonds: tuple[str, ...]
    caps: tuple[int, ...]
    max_ranks: tuple[int, ...] | None
    static: Mapping[str, Any] = field(default_factory=dict)
    tensorization: Tensorization | None = None
    closing: str = ""

    @property
    def inner_shape(self) -> tuple[int, ...]:
        """The shape of the tensorized array."""
        return tuple(self.sizes[label] for label in self.topology.output)

    @property
    def dense_size(self) -> int:
        """Entries of the user's array."""
        return prod(self.shape)

    def label_sizes(self, ranks: Sequence[int]) -> dict[str, int]:
        """The size of every label at these ranks."""
        return {**self.sizes, **dict(zip(self.bonds, ranks, strict=True))}

    def shapes(self, ranks: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """The shapes of the tensors at these ranks."""
        return self.topology.shapes(self.label_sizes(ranks))

    def n_params(self, ranks: Sequence[int]) -> int:
        """Entries that are stored at these ranks (a complex one counts once here)."""
        return sum(prod(shape) for shape in self.shapes(ranks))

    @property
    def inner_plan(self) -> Tensorization:
        """The tensorization, the identity where there is none."""
        return Tensorization.start(self.shape) if self.tensorization is None else self.tensorization

    def tensorize(self, x: Tensor) -> Tensor:
        """The array in the shape that is decomposed."""
        return x if self.tensorization is None else self.tensorization.apply(x)

    def build(self, tensors: Sequence[Tensor]) -> Format:
        """The format of these tensors, with the user's shape."""
        inner = self.format.from_tensors(tuple(tensors), **self.static)
        return inner if self.tensorization is None else inner.tensorized(self.tensorization)

    def ranks_of(self, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        """The ranks of these tensors."""
        sizes = self.topology.sizes([t.shape for t in tensors])
        return tuple(sizes[label] for label in self.bonds)


class FormatSpec(ABC):
    """What ranks alone do not say about a structure: blocks, factor shapes, trees. A frozen config."""

    name: ClassVar[str]

    @abstractmethod
    def layout(self, shape: Sequence[int]) -> Layout:
        """How the format lies over an array of this shape.

        Raises:
            ShapeError: the format does not take such an array.
        """


def require_shape(shape: Sequence[int], *, name: str, least: int = 1) -> tuple[int, ...]:
    """The shape as plain ints.

    Raises:
        ShapeError: fewer than `least` modes, or a mode of size 0.
    """
    plain = tuple(int(n) for n in shape)
    if len(plain) < least or min(plain, default=0) < 1:
        raise ShapeError(
            f"{name} needs at least {least} mode{'s' * (least > 1)} of size 1 or more; the shape is {plain}."
        )
    return plain


def matricization(shape: tuple[int, ...], row_modes: int | Sequence[int] | None = None) -> Tensorization:
    """The plan that makes a matrix of an array.

    Args:
        shape: of the array.
        row_modes: how many leading modes are rows, or which modes are; by default the split that is most nearly square.

    Raises:
        ShapeError: modes that the array does not have.
    """
    d = len(shape)
    if row_modes is None:
        row_modes = min(range(1, max(2, d)), key=lambda k: max(prod(shape[:k]), prod(shape[k:])))
    rows = tuple(range(row_modes)) if isinstance(row_modes, int) else tuple(int(k) for k in row_modes)
    if not rows or len(set(rows)) != len(rows) or not set(rows) <= set(range(d)):
        raise ShapeError(f"row_modes={row_modes!r} does not name modes of shape {shape}; use some of 0 … {d - 1}.")
    columns = tuple(k for k in range(d) if k not in rows)
    sides = (prod(shape[k] for k in rows), prod(shape[k] for k in columns))
    return Tensorization.start(shape).permute(rows + columns).reshape(sides)


def bond_caps(topology: Topology, sizes: Mapping[str, int], bonds: Sequence[str]) -> tuple[int, ...]:
    """The largest useful rank of each bond.

    A bond whose cut leaves two parts needs no more than the smaller part has entries; in a loop or a hyperedge the
    bound is the dense size over the largest mode.
    """
    total = prod(sizes[label] for label in topology.output)
    largest = max((sizes[label] for label in topology.output), default=1)
    caps = []
    for bond in bonds:
        whole = topology.components()
        parts = topology.components(without=[bond])
        if len(topology.nodes_of(bond)) == 2 and len(parts) == len(whole) + 1:
            side = next(part for part in parts if topology.nodes_of(bond)[0] in part)
            inside = {label for k in side for label in topology.inputs[k]} & set(topology.output)
            entries = prod(sizes[label] for label in inside)
            caps.append(max(1, min(entries, total // entries)))
        elif len(topology.nodes_of(bond)) == 1:
            caps.append(1)
        else:
            caps.append(max(1, total // largest))
    return tuple(caps)
