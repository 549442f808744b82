"""Network: any tensor network, by its topology; and Tensorized: a format read as a reshaped array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from tnkit.errors import EquationError, ShapeError
from tnkit.formats.base import Format, as_format, require_axes, require_network
from tnkit.formats.layout import FormatSpec, Layout, bond_caps, require_shape
from tnkit.network import Topology
from tnkit.tensorize import Tensorization

__all__ = ["EquationSpec", "Network", "Tensorized"]


@as_format
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Network(Format):
    """Any network.

    Attributes:
        nodes: the tensors.
        graph: their topology.

    Example:
        >>> import torch
        >>> Network.from_equation("ia,aj->ij", [torch.ones(2, 3), torch.ones(3, 4)]).ranks
        (3,)
    """

    nodes: tuple[Tensor, ...]
    graph: Topology = field(metadata={"static": True})
    name: ClassVar[str] = "network"

    @classmethod
    def from_equation(cls, equation: str | Topology, tensors: Sequence[Tensor]) -> Network:
        """A checked network.

        Args:
            equation: such as "ia,ajb,bk->ijk", or a Topology.
            tensors: one for each term.

        Raises:
            EquationError: the equation cannot be read.
            ShapeError: the tensors do not fit it.
        """
        graph = equation if isinstance(equation, Topology) else Topology.parse(equation)
        return cls.from_tensors(tensors, graph=graph)

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], **static: Any) -> Network:
        """The tensors; `graph=` is required."""
        graph: Topology = static["graph"]
        if len(tensors) != len(graph.parameters):
            raise ShapeError(f"Network {graph} has {len(graph.parameters)} tensors; {len(tensors)} were given.")
        labels = [graph.inputs[k] for k in graph.parameters]
        value = cls(
            tuple(
                require_axes(t, len(ls), f"Tensor {k}") for k, (t, ls) in enumerate(zip(tensors, labels, strict=True))
            ),
            graph,
        )
        require_network(value)
        return value

    def topology(self) -> Topology:
        """The graph."""
        return self.graph

    def bonds(self) -> tuple[str, ...]:
        """The internal labels that are not fixed by a constant."""
        return free_bonds(self.graph)


def free_bonds(topology: Topology) -> tuple[str, ...]:
    """Internal labels whose size is a choice: those on no constant node."""
    fixed = {label for k, c in enumerate(topology.constants) if c is not None for label in topology.inputs[k]}
    return tuple(label for label in topology.internal if label not in fixed)


@as_format
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Tensorized(Format):
    """A format over a reshaped, padded or permuted array; shape and dense tensor are those of the user's array.

    Attributes:
        format: over the reshaped array.
        plan: from the user's array to the reshaped one.
    """

    format: Format
    plan: Tensorization = field(metadata={"static": True})
    name: ClassVar[str] = "tensorized"

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], **static: Any) -> Tensorized:
        """The tensors of the inner format; `format=` (class), `inner=` (its statics) and `plan=` are required."""
        inner = static["format"].from_tensors(tensors, **static.get("inner", {}))
        return cls.over(inner, static["plan"])

    @classmethod
    def over(cls, inner: Format, plan: Tensorization) -> Tensorized:
        """A checked one.

        Raises:
            ShapeError: the plan leads to another shape than the format has.
        """
        if inner.shape != plan.out_shape:
            raise ShapeError(f"The plan {plan} does not lead to the shape {inner.shape} of the {inner.name}.")
        return cls(inner, plan)

    def topology(self) -> Topology:
        """Of the inner format."""
        return self.format.topology()

    def bonds(self) -> tuple[str, ...]:
        """Of the inner format."""
        return self.format.bonds()

    def view(self) -> Tensorization:
        """The plan."""
        return self.plan


@dataclass(frozen=True, slots=True)
class EquationSpec(FormatSpec):
    """Any network, as an equation whose open labels are the modes.

    Attributes:
        equation: such as "ia,ajb,bk->ijk".
    """

    equation: str | Topology
    name: ClassVar[str] = "network"

    def layout(self, shape: Sequence[int]) -> Layout:
        """Bonds are the internal labels, in the order in which they appear.

        Raises:
            EquationError: the equation cannot be read, or has another number of open labels than the array has modes.
        """
        topology = self.equation if isinstance(self.equation, Topology) else Topology.parse(self.equation)
        n = require_shape(shape, name="A network")
        if len(topology.output) != len(n):
            raise EquationError(
                f"Equation {topology} has {len(topology.output)} open labels ({' '.join(topology.output)}), "
                f"but the array has {len(n)} modes: shape {n}. Give one open label a mode."
            )
        sizes = dict(zip(topology.output, n, strict=True))
        bonds = free_bonds(topology)
        caps = bond_caps(topology, sizes, bonds)
        tree = len(topology.components()) == 1 and all(
            len(topology.nodes_of(b)) == 2 and len(topology.components(without=[b])) == 2 for b in bonds
        )
        simple = all(len(topology.nodes_of(label)) == 1 for label in topology.output)
        exact = caps if tree and simple else None
        return Layout(str(topology), Network, n, topology, sizes, bonds, caps, exact, {"graph": topology})
