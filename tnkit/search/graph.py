"""Graph: a candidate structure, as nodes that hold modes and bonds that have ranks.

Chains, rings, trees, Tucker cores and any other network of which each bond joins two nodes are graphs. Two graphs that
differ in the order of their nodes only have the same `key`.

Example:
    >>> ring = Graph((4, 5, 6), ((0,), (1,), (2,)), {(0, 1): 2, (1, 2): 3, (0, 2): 2})
    >>> ring.n_params, ring.is_tree, ring.with_rank((0, 2), 1).is_tree
    (82, False, True)
    >>> Graph((4, 5, 6), ((2,), (0,), (1,)), {(1, 2): 2, (0, 2): 3, (0, 1): 2}).key == ring.key
    True
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import permutations
from math import prod
from typing import Any, TypeAlias

from tnkit.errors import ShapeError
from tnkit.formats import EquationSpec, Layout
from tnkit.network import Topology

__all__ = ["Bond", "Graph", "chain", "ring", "star"]

#: Two nodes, the smaller number first.
Bond: TypeAlias = "tuple[int, int]"

_ORDERED = 6  # inner nodes up to which all their orders are compared for the key


class Graph:
    """A structure; it never changes.

    Args:
        shape: the sizes of the modes.
        nodes: the modes on each node; () for an inner one. Every mode stands on exactly one node.
        ranks: by bond; bonds of rank 1 are left out.

    Raises:
        ShapeError: a mode is missing, stands twice or is not there; a bond of no two nodes; a rank below 1.
    """

    def __init__(self, shape: Sequence[int], nodes: Sequence[Sequence[int]], ranks: Mapping[Bond, int]) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.nodes = tuple(tuple(modes) for modes in nodes)
        held = sorted(k for modes in self.nodes for k in modes)
        if held != list(range(len(self.shape))):
            raise ShapeError(f"Nodes {self.nodes} must hold each of the modes 0 … {len(self.shape) - 1} exactly once.")
        bonds: dict[Bond, int] = {}
        for (a, b), rank in ranks.items():
            if a == b or not {a, b} <= set(range(len(self.nodes))) or rank < 1:
                raise ShapeError(f"Bond {(a, b)} of rank {rank}: give two of {len(self.nodes)} nodes, and 1 or more.")
            if rank > 1:
                bonds[min(a, b), max(a, b)] = int(rank)
        self.ranks: Mapping[Bond, int] = dict(sorted(bonds.items()))

    def with_rank(self, bond: Bond, rank: int) -> Graph:
        """The same nodes with another rank at one bond."""
        return Graph(self.shape, self.nodes, {**self.ranks, (min(bond), max(bond)): rank})

    def with_flat_ranks(self, rank: int = 2) -> Graph:
        """The same bonds, all of one rank: the structure alone."""
        return Graph(self.shape, self.nodes, dict.fromkeys(self.ranks, rank))

    def rank(self, bond: Bond) -> int:
        """Of a bond, 1 where there is none."""
        return self.ranks.get((min(bond), max(bond)), 1)

    def size(self, node: int) -> int:
        """Entries of a node."""
        return prod(self.shape[k] for k in self.nodes[node]) * prod(r for b, r in self.ranks.items() if node in b)

    @cached_property
    def n_params(self) -> int:
        """Entries of all nodes."""
        return sum(self.size(k) for k in range(len(self.nodes)))

    @cached_property
    def is_tree(self) -> bool:
        """Whether it is connected and without loops."""
        group = list(range(len(self.nodes)))
        for a, b in self.ranks:
            if group[a] == group[b]:
                return False
            group = [group[a] if g == group[b] else g for g in group]
        return len(set(group)) == 1

    @cached_property
    def key(self) -> str:
        """The same for graphs that differ in the order of their nodes only."""
        holders = sorted((modes, k) for k, modes in enumerate(self.nodes) if modes)
        inner = [k for k, modes in enumerate(self.nodes) if not modes and any(k in bond for bond in self.ranks)]
        named = {k: place for place, (_, k) in enumerate(holders)}
        near = {
            k: sorted((named.get(a + b - k, -1), r) for (a, b), r in self.ranks.items() if k in (a, b)) for k in inner
        }
        inner.sort(key=lambda k: near[k])
        orders = permutations(inner) if len(inner) <= _ORDERED else [tuple(inner)]

        def text(order: Sequence[int]) -> list[tuple[int, int, int]]:
            place = {**named, **{k: len(holders) + j for j, k in enumerate(order)}}
            ends = [(place[a], place[b], r) for (a, b), r in self.ranks.items()]
            return sorted((min(a, b), max(a, b), r) for a, b, r in ends)

        bonds = min(text(order) for order in orders)
        return f"{self.shape} {[list(modes) for modes, _ in holders]} {bonds}"

    def sides(self) -> Iterator[tuple[int, int]]:
        """For every way to put the nodes on two sides the modes on one side (a mask) and the most its rank can be.

        The error of the network is at least what the unfolding loses at that rank.
        """
        masks = [sum(1 << k for k in modes) for modes in self.nodes]
        for chosen in range(1, 2 ** (len(self.nodes) - 1)):
            mask = sum(m for k, m in enumerate(masks) if chosen >> k & 1)
            yield mask, prod(r for (a, b), r in self.ranks.items() if (chosen >> a & 1) != (chosen >> b & 1))

    @cached_property
    def topology(self) -> Topology:
        """Open labels m0, m1, …; bonds b0_1, …."""
        inputs = [
            (*(f"m{k}" for k in modes), *(f"b{a}_{b}" for a, b in self.ranks if node in (a, b)))
            for node, modes in enumerate(self.nodes)
        ]
        return Topology(tuple(inputs), tuple(f"m{k}" for k in range(len(self.shape))))

    def spec(self) -> EquationSpec:
        """As a network."""
        return EquationSpec(self.topology)

    def layout(self) -> Layout:
        """Over its shape."""
        return self.spec().layout(self.shape)

    def bond_ranks(self) -> tuple[int, ...]:
        """In the order of the layout's bonds."""
        known = {f"b{a}_{b}": r for (a, b), r in self.ranks.items()}
        return tuple(known[label] for label in self.layout().bonds)

    def with_ranks_of(self, sizes: Mapping[str, int]) -> Graph:
        """The same with ranks by the topology's labels."""
        return Graph(self.shape, self.nodes, {(a, b): sizes[f"b{a}_{b}"] for a, b in self.ranks})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "shape": list(self.shape),
            "nodes": [list(modes) for modes in self.nodes],
            "ranks": [[a, b, r] for (a, b), r in self.ranks.items()],
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Graph:
        """What `to_json` gave."""
        return Graph(value["shape"], value["nodes"], {(a, b): r for a, b, r in value["ranks"]})

    def __str__(self) -> str:
        """Nodes by their modes, bonds with ranks."""
        inner = iter(range(len(self.nodes)))
        names = ["".join(map(str, m)) if len(self.shape) <= 10 else ".".join(map(str, m)) for m in self.nodes]
        names = [name or f"+{next(inner)}" for name in names]
        return " ".join(f"{names[a]}-{names[b]}:{r}" for (a, b), r in self.ranks.items()) or "rank one"

    def __repr__(self) -> str:
        """As text."""
        return f"Graph({self}, {self.n_params} entries)"


def _single(shape: Sequence[int], order: Sequence[int] | None) -> tuple[tuple[int, ...], ...]:
    return tuple((k,) for k in (range(len(shape)) if order is None else order))


def chain(shape: Sequence[int], ranks: Sequence[int], order: Sequence[int] | None = None) -> Graph:
    """A train of the modes in an order.

    Example:
        >>> str(chain((4, 5, 6), (2, 3), order=(1, 0, 2)))
        '1-0:2 0-2:3'
    """
    return Graph(shape, _single(shape, order), {(k, k + 1): r for k, r in enumerate(ranks)})


def ring(shape: Sequence[int], ranks: Sequence[int], order: Sequence[int] | None = None) -> Graph:
    """A closed train; the first rank closes it, as for `TensorRing`.

    Example:
        >>> str(ring((4, 5, 6), (2, 3, 4)))
        '0-1:3 0-2:2 1-2:4'
    """
    d = len(shape)
    return Graph(
        shape, _single(shape, order), {(min((k - 1) % d, k), max((k - 1) % d, k)): r for k, r in enumerate(ranks)}
    )


def star(shape: Sequence[int], ranks: Sequence[int]) -> Graph:
    """A Tucker core with one factor for each mode.

    Example:
        >>> star((4, 5, 6), (2, 3, 4)).n_params
        71
    """
    return Graph(shape, (*_single(shape, None), ()), {(k, len(shape)): r for k, r in enumerate(ranks)})
