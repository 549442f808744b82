"""Topology: which labels each tensor of a network carries, and which of them are left open.

A label may touch any number of tensors (a hyperedge) and may be open as well: CP is `r,ir,jr,kr->ijk`,
BLAST is `iar,ijr,jbr->iajb`. Labels are strings of any length, so more than 52 of them work.

Example:
    >>> from tnkit.network import Topology
    >>> tt = Topology.parse("ia,ajb,bk->ijk")
    >>> tt.internal, tt.output
    (('a', 'b'), ('i', 'j', 'k'))
    >>> print(Topology.parse("left up, up right -> left right"))
    left up, up right -> left right
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from tnkit.errors import EquationError
from tnkit.network.constants import Constant, constant_of

__all__ = ["Topology", "TopologyKey"]

Labels = tuple[str, ...]
#: A topology in plain values.
TopologyKey: TypeAlias = "tuple[tuple[Labels, ...], Labels, tuple[tuple[Any, ...] | None, ...]]"


@dataclass(frozen=True)
class Topology:
    """The graph of a tensor network.

    Attributes:
        inputs: for each node the labels of its axes, in order; no label twice on one node.
        output: the open labels, in the order of the dense tensor's modes.
        constants: for each node None, or the constant (such as a DFT matrix) that stands there and holds no parameter.
    """

    inputs: tuple[Labels, ...]
    output: Labels
    constants: tuple[Constant | None, ...] = ()

    def __post_init__(self) -> None:
        """Fill in `constants` and refuse labels that do not fit.

        Raises:
            EquationError: a label twice on one node or in the output, or an output label on no node.
        """
        object.__setattr__(self, "inputs", tuple(tuple(labels) for labels in self.inputs))
        object.__setattr__(self, "output", tuple(self.output))
        if not self.constants:
            object.__setattr__(self, "constants", (None,) * len(self.inputs))
        if not self.inputs:
            raise EquationError("A network needs at least one tensor; the equation has none.")
        if len(self.constants) != len(self.inputs):
            raise EquationError(
                f"{len(self.inputs)} nodes but {len(self.constants)} entries in constants; give one each."
            )
        for labels in self.inputs:
            _require_distinct(labels, f"tensor {' '.join(labels)!r}")
        _require_distinct(self.output, f"output {' '.join(self.output)!r}")
        known = {label for labels in self.inputs for label in labels}
        missing = [label for label in self.output if label not in known]
        if missing:
            raise EquationError(
                f"Output label{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))} of {self} "
                f"stand{'s' * (len(missing) == 1)} on no tensor. Known labels: {', '.join(sorted(known))}."
            )

    @staticmethod
    def parse(equation: str) -> Topology:
        """Read an equation.

        Args:
            equation: `"ia,ajb,bk->ijk"`, one character a label; or with spaces between labels of any length,
                `"row a, a col -> row col"`.

        Raises:
            EquationError: no arrow, an empty tensor, characters that are no labels.
        """
        if not isinstance(equation, str) or equation.count("->") != 1:
            raise EquationError(f"Equation {equation!r} needs one '->': for example 'ia,ajb,bk->ijk'.")
        left, right = equation.split("->")
        terms = [term.strip() for term in left.split(",")]
        spaced = any(" " in term for term in [*terms, right.strip()])
        read = str.split if spaced else list
        inputs = tuple(tuple(read(term)) for term in terms)
        output = tuple(read(right.strip()))
        for label in [*output, *(label for labels in inputs for label in labels)]:
            if not label.replace("_", "").isalnum():
                raise EquationError(
                    f"Equation {equation!r} has {label!r}; labels are letters, digits and '_' (no '...')."
                )
        return Topology(inputs, output)

    def key(self) -> TopologyKey:
        """Inputs, output and constants in nested tuples of plain values, from which `from_key` makes an equal one."""
        return (self.inputs, self.output, tuple([None if c is None else c.key() for c in self.constants]))

    @staticmethod
    def from_key(key: TopologyKey) -> Topology:
        """The topology of a key."""
        return Topology(key[0], key[1], tuple(constant_of(k) for k in key[2]))

    @cached_property
    def labels(self) -> Labels:
        """All labels, in the order in which they appear."""
        return tuple(dict.fromkeys(label for labels in self.inputs for label in labels))

    @cached_property
    def internal(self) -> Labels:
        """The labels that are summed over."""
        return tuple(label for label in self.labels if label not in self.output)

    @cached_property
    def parameters(self) -> tuple[int, ...]:
        """The nodes that are no constants."""
        return tuple(k for k, constant in enumerate(self.constants) if constant is None)

    def nodes_of(self, label: str) -> tuple[int, ...]:
        """The nodes that carry `label`."""
        return tuple(k for k, labels in enumerate(self.inputs) if label in labels)

    def sizes(self, shapes: Sequence[Sequence[int]]) -> dict[str, int]:
        """The size of every label, read off the shapes of all parameter nodes.

        Raises:
            EquationError: the number of tensors or of axes is off, or one label has two sizes.
        """
        if len(shapes) != len(self.parameters):
            raise EquationError(f"{self} has {len(self.parameters)} tensors, but {len(shapes)} were given.")
        sizes: dict[str, int] = {}
        constant_shapes = ((k, c.shape) for k, c in enumerate(self.constants) if c is not None)
        for k, shape in [*zip(self.parameters, shapes, strict=True), *constant_shapes]:
            labels = self.inputs[k]
            if len(labels) != len(shape):
                raise EquationError(
                    f"Tensor {k} of {self} carries {len(labels)} labels ({' '.join(labels)}), "
                    f"but has {len(shape)} axes: shape {tuple(shape)}."
                )
            for label, size in zip(labels, shape, strict=True):
                if sizes.setdefault(label, int(size)) != size:
                    raise EquationError(
                        f"Label {label!r} of {self} has size {sizes[label]} on one tensor and {size} on tensor {k}, "
                        f"shape {tuple(shape)}. Equal labels need equal sizes."
                    )
        return sizes

    def shapes(self, sizes: Mapping[str, int]) -> tuple[tuple[int, ...], ...]:
        """The shapes of the parameter nodes for given label sizes."""
        return tuple(tuple(sizes[label] for label in self.inputs[k]) for k in self.parameters)

    def components(
        self, *, without: Iterable[str] = (), through: Iterable[str] | None = None
    ) -> tuple[frozenset[int], ...]:
        """Groups of nodes that hang together.

        Args:
            without: labels that are cut.
            through: only these labels connect; by default all internal ones.
        """
        cut = set(without)
        joining = [label for label in (self.internal if through is None else through) if label not in cut]
        group = list(range(len(self.inputs)))
        for label in joining:
            nodes = self.nodes_of(label)
            merged = {group[k] for k in nodes}
            target = min(merged) if merged else 0
            group = [target if g in merged else g for g in group]
        return tuple(frozenset(k for k, g in enumerate(group) if g == name) for name in dict.fromkeys(group))

    def relabel(self, names: Mapping[str, str]) -> Topology:
        """The same graph with other labels; those not in `names` stay."""
        inputs = tuple(tuple(names.get(label, label) for label in labels) for labels in self.inputs)
        return Topology(inputs, tuple(names.get(label, label) for label in self.output), self.constants)

    def with_output(self, output: Sequence[str]) -> Topology:
        """The same nodes with other open labels."""
        return Topology(self.inputs, tuple(output), self.constants)

    def __str__(self) -> str:
        """The equation."""
        short = all(len(label) == 1 for label in self.labels)
        glue, comma, arrow = ("", ",", "->") if short else (" ", ", ", " -> ")
        return comma.join(glue.join(labels) for labels in self.inputs) + arrow + glue.join(self.output)


def _require_distinct(labels: Labels, where: str) -> None:
    if len(set(labels)) != len(labels):
        double = next(label for label in labels if labels.count(label) > 1)
        raise EquationError(
            f"Label {double!r} stands twice on {where}. A diagonal needs a tensor of its own; rename one."
        )
