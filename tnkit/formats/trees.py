"""Networks without loops: orthogonal forms, the singular values of every cut, truncation.

In a tree every bond cuts the tensor in two. If all nodes but one are isometries towards that one, the centre, then the
centre's unfoldings have the singular values of the tensor's. Moving the centre along a bond is one QR.

References: Oseledets 2011, doi:10.1137/090752286 (rounding of trains); Grasedyck 2010, doi:10.1137/090764189 (of
    trees).

Example:
    >>> import torch
    >>> from tnkit.formats import random_format
    >>> tt = random_format("tt", (4, 5, 6), 3, rng=0)
    >>> tree = Tree(tt.topology())
    >>> cores = tree.orthogonalize(tt.tensors(), 0)
    >>> torch.allclose(cores[0].norm(), tt.to_dense().norm())
    True
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from tnkit.linalg import reduced_qr, split
from tnkit.network import Topology

__all__ = ["Edge", "Tree", "absorb", "is_tree", "tree_of", "unfold"]


class Edge(NamedTuple):
    """A bond, seen from a root.

    Attributes:
        parent: the node nearer to the root.
        child: the other one.
        label: of the bond.
    """

    parent: int
    child: int
    label: str


def is_tree(topology: Topology) -> bool:
    """Whether the topology is one connected tree of free nodes, with each open label on one of them.

    Internal labels that stand on one node alone are allowed; they have to be of size 1 (the ends of a train).
    """
    if any(constant is not None for constant in topology.constants):
        return False
    if any(len(topology.nodes_of(label)) != 1 for label in topology.output):
        return False
    counts = [len(topology.nodes_of(label)) for label in topology.internal]
    bonds = sum(count == 2 for count in counts)
    return max(counts, default=1) <= 2 and bonds == len(topology.inputs) - 1 and len(topology.components()) == 1


@lru_cache(maxsize=256)
def tree_of(topology: Topology) -> Tree:
    """The tree of a topology (see `is_tree`)."""
    return Tree(topology)


def unfold(t: Tensor, axis: int) -> Tensor:
    """The matrix whose columns are along one axis: (all others, n)."""
    return t.movedim(axis, -1).reshape(-1, t.shape[axis])


def absorb(t: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Multiply an axis by a matrix (new, old)."""
    product: Tensor = torch.tensordot(t, matrix, dims=([axis], [1]))
    return product.movedim(-1, axis)


def _fold(matrix: Tensor, t: Tensor, axis: int) -> Tensor:
    others = [n for k, n in enumerate(t.shape) if k != axis]
    return matrix.reshape(*others, matrix.shape[1]).movedim(-1, axis)


class Tree:
    """The algorithms on a topology that is a tree.

    Args:
        topology: for which `is_tree` holds.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.bonds = tuple(label for label in topology.internal if len(topology.nodes_of(label)) == 2)
        self._neighbours: dict[int, list[tuple[int, str]]] = {k: [] for k in range(len(topology.inputs))}
        for label in self.bonds:
            a, b = topology.nodes_of(label)
            self._neighbours[a].append((b, label))
            self._neighbours[b].append((a, label))

    def axis(self, node: int, label: str) -> int:
        """Where a label stands on a node."""
        return self.topology.inputs[node].index(label)

    def edges(self, root: int) -> list[Edge]:
        """All bonds, each after the one above it."""
        found: list[Edge] = []
        stack = [(root, -1)]
        while stack:
            node, above = stack.pop()
            for other, _ in reversed(self._neighbours[node]):
                if other != above:
                    stack.append((other, node))
            found += [Edge(node, other, label) for other, label in self._neighbours[node] if other != above]
        return found

    def tour(self, root: int) -> Iterator[tuple[bool, Edge]]:
        """Walk down and up all bonds below a root, depth first: (whether down, the bond)."""
        stack: list[tuple[bool, Edge]] = []

        def children(node: int, above: int) -> None:
            for other, label in reversed(self._neighbours[node]):
                if other != above:
                    stack.append((True, Edge(node, other, label)))

        children(root, -1)
        while stack:
            down, edge = stack.pop()
            yield down, edge
            if down:
                stack.append((False, edge))
                children(edge.child, edge.parent)

    def first_leaf(self, root: int) -> int:
        """The leaf that the tour reaches first."""
        node = root
        for down, edge in self.tour(root):
            if not down:
                break
            node = edge.child
        return node

    def orthogonalize(self, tensors: Sequence[Tensor], centre: int) -> list[Tensor]:
        """The same tensor with every node but the centre an isometry towards it.

        Cost: one QR of every node but one. Bonds larger than the nodes below them shrink.
        """
        nodes = list(tensors)
        for edge in reversed(self.edges(centre)):
            self._move(nodes, edge.child, edge.parent, edge.label)
        return nodes

    def _move(self, nodes: list[Tensor], source: int, target: int, label: str) -> None:
        """Make a node an isometry, and let the neighbour take the rest."""
        axis = self.axis(source, label)
        q, r = reduced_qr(unfold(nodes[source], axis))
        nodes[source] = _fold(q, nodes[source], axis)
        nodes[target] = absorb(nodes[target], self.axis(target, label), r)

    def spectra(self, nodes: Sequence[Tensor], centre: int) -> dict[str, Tensor]:
        """The squared singular values of every cut, descending, float64.

        Args:
            nodes: orthogonalised to `centre`.
            centre: the centre.

        Cost:
            one QR for every bond. Nothing is squared before the end, so small values are as exact as large ones.
        """
        weighted = list(nodes)
        found: dict[str, Tensor] = {}
        for edge in self.edges(centre):
            r = torch.linalg.qr(unfold(weighted[edge.parent], self.axis(edge.parent, edge.label)), mode="r").R
            found[edge.label] = torch.linalg.svdvals(r).to(torch.float64).square()
            weighted[edge.child] = absorb(weighted[edge.child], self.axis(edge.child, edge.label), r)
        return found

    def truncate(self, nodes: Sequence[Tensor], ranks: Mapping[str, int], root: int = 0) -> tuple[list[Tensor], float]:
        """Truncate every bond to its rank, leaves first, each by the SVD of what the ones before have left.

        Args:
            nodes: orthogonalised to `first_leaf(root)`.
            ranks: by label; a bond that is not named, or is no larger, stays.
            root: the last centre.

        Returns:
            the nodes, orthogonalised to the root, and the squared error. It is the sum of what the steps discard, since
            each is an orthogonal projection inside the range of those before; it is at most the sum of the tails.

        Cost:
            one SVD for every bond, one QR for every bond that does not lead to the first leaf.
        """
        done = list(nodes)
        lost = 0.0
        started = False
        for down, edge in self.tour(root):
            if down:
                if started:
                    self._move(done, edge.parent, edge.child, edge.label)
                continue
            started = True
            axis = self.axis(edge.child, edge.label)
            matrix = unfold(done[edge.child], axis)
            rank = min(ranks.get(edge.label, matrix.shape[1]), *matrix.shape)
            if rank >= matrix.shape[1]:
                self._move(done, edge.child, edge.parent, edge.label)
                continue
            part = split(matrix, max_rank=rank)
            lost += part.discarded2
            done[edge.child] = _fold(part.basis, done[edge.child], axis)
            done[edge.parent] = absorb(done[edge.parent], self.axis(edge.parent, edge.label), part.rest)
        return done, lost
