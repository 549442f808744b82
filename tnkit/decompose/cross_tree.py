"""The trees on which entries are interpolated, and how their tensors become those of a format.

A train over large modes is interpolated on a comb: each mode hangs on the chain by a bond of its own, so that a core
(r, n, r') costs r·m·r' + n·m entries with the mode's rank m instead of r·n·r'.

Reference: Tindall, Stoudenmire & Levy, arXiv:2410.03572, for interpolation on trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tnkit.formats import Layout
from tnkit.formats.ht import Tree, tree_nodes

__all__ = ["PivotTree", "comb", "format_tensors", "pivot_tree"]

Array: TypeAlias = "NDArray[Any]"

#: Inner modes of at least this size hang on the chain by a bond.
LARGE_MODE = 8


@dataclass(frozen=True)
class PivotTree:
    """A tree of nodes, each with at most one mode.

    Attributes:
        shape: of the array.
        modes: the mode of each node, or None.
        edges: pairs of nodes. A node's tensor has one axis for each of its edges, in this order, then its mode.
    """

    shape: tuple[int, ...]
    modes: tuple[int | None, ...]
    edges: tuple[tuple[int, int], ...]

    @cached_property
    def edges_of(self) -> tuple[tuple[int, ...], ...]:
        """The edges of each node."""
        return tuple(tuple(e for e, pair in enumerate(self.edges) if node in pair) for node in range(len(self.modes)))

    @cached_property
    def inside(self) -> dict[tuple[int, int], NDArray[np.bool_]]:
        """For (node, edge) of that node: which modes are on the node's side of the edge."""
        found = {}
        for e, pair in enumerate(self.edges):
            for node, other in (pair, pair[::-1]):
                mask = np.zeros(len(self.shape), dtype=bool)
                stack = [(node, other)]
                while stack:
                    here, above = stack.pop()
                    mode = self.modes[here]
                    if mode is not None:
                        mask[mode] = True
                    stack += [(next_, here) for next_ in self.neighbours(here) if next_ != above]
                found[node, e] = mask
        return found

    @cached_property
    def caps(self) -> tuple[int, ...]:
        """The largest rank of each edge."""
        found = []
        for e, (node, _) in enumerate(self.edges):
            mask = self.inside[node, e]
            near = prod(n for n, inside in zip(self.shape, mask, strict=True) if inside)
            found.append(min(near, prod(self.shape) // near))
        return tuple(found)

    @cached_property
    def tour(self) -> tuple[tuple[int, int | None, int | None], ...]:
        """(node, its parent, the edge between them), each after its parent; node 0 is the root."""
        order: list[tuple[int, int | None, int | None]] = []
        stack: list[tuple[int, int | None, int | None]] = [(0, None, None)]
        while stack:
            node, parent, edge = stack.pop()
            order.append((node, parent, edge))
            below = [(self.other(e, node), node, e) for e in self.edges_of[node] if e != edge]
            stack += reversed(below)
        return tuple(order)

    def other(self, edge: int, node: int) -> int:
        """The node at the other end."""
        a, b = self.edges[edge]
        return b if node == a else a

    def neighbours(self, node: int) -> list[int]:
        """The nodes next to a node."""
        return [b if node == a else a for a, b in self.edges if node in (a, b)]


def comb(shape: Sequence[int], large: int = LARGE_MODE) -> PivotTree:
    """A chain whose inner modes of at least `large` hang on it by a bond.

    Example:
        >>> comb((50, 50, 2, 50)).edges
        ((0, 1), (1, 2), (1, 3), (3, 4))
    """
    modes: list[int | None] = [0]
    edges: list[tuple[int, int]] = []
    last = 0
    for k in range(1, len(shape)):
        hangs = k < len(shape) - 1 and shape[k] >= large
        spine = len(modes)
        modes.append(None if hangs else k)
        edges.append((last, spine))
        if hangs:
            modes.append(k)
            edges.append((spine, spine + 1))
        last = spine
    return PivotTree(tuple(shape), tuple(modes), tuple(edges))


def pivot_tree(layout: Layout) -> PivotTree:
    """The tree on which a layout's array is interpolated."""
    if layout.name == "ht":
        return _from_dimension_tree(layout.shape, layout.static["tree"])
    return comb(layout.shape, 1 if layout.name == "tucker" else LARGE_MODE)


def _from_dimension_tree(shape: tuple[int, ...], tree: Tree) -> PivotTree:
    """The nodes in their order without the root, whose two children are joined."""
    if isinstance(tree, int):
        return PivotTree(shape, (0,), ())
    modes: list[int | None] = []
    edges: list[tuple[int, int]] = []

    def visit(node: Tree) -> int:
        here = len(modes)
        modes.append(node if isinstance(node, int) else None)
        if isinstance(node, tuple):
            for child in node:
                at = len(modes)
                edges.append((here, at))
                visit(child)
        return here

    left, right = visit(tree[0]), visit(tree[1])
    return PivotTree(shape, tuple(modes), ((left, right), *edges))


def format_tensors(tree: PivotTree, tensors: Sequence[Array], layout: Layout) -> list[Array]:
    """The layout's tensors from those of its pivot tree.

    Args:
        tree: as `pivot_tree` gives it.
        tensors: of its nodes, with axes as the tree says.
        layout: a train, a ring, a Tucker tensor or a dimension tree.
    """
    if layout.name == "ht":
        return _dimension_tree(tensors, layout.static["tree"])
    if layout.name == "tucker":
        return _tucker(tree, tensors)
    return _cores(tree, tensors)


def _cores(tree: PivotTree, tensors: Sequence[Array]) -> list[Array]:
    cores: list[Array] = []
    d, node = len(tree.shape), 0
    for k in range(d):
        t = tensors[node]
        if k == 0:
            core = t.reshape(1, 1, -1) if d == 1 else t[None]  # (1, r, n)
        elif k == d - 1:
            core = t[:, None]
        elif tree.modes[node] is None:  # (left, leaf, right), and the leaf (leaf, n)
            core = np.einsum("lmr,mi->lri", t, tensors[node + 1], optimize=True)
            node += 1
        else:
            core = t
        cores.append(np.moveaxis(core, 2, 1))
        node += 1
    return cores


def _tucker(tree: PivotTree, tensors: Sequence[Array]) -> list[Array]:
    """The factors, and the chain between them multiplied out."""
    d = len(tree.shape)
    if d == 1:
        return [np.ones(1, dtype=tensors[0].dtype), tensors[0][:, None]]
    factors = [np.moveaxis(tensors[node], -1, 0) for node, mode in enumerate(tree.modes) if mode is not None]
    core = np.eye(tensors[0].shape[0], dtype=tensors[0].dtype)
    for node, mode in enumerate(tree.modes):
        if mode is None:
            core = np.tensordot(core, tensors[node], axes=1)
    return [core, *factors]


def _dimension_tree(tensors: Sequence[Array], tree: Tree) -> list[Array]:
    """Own bond last; a root that joins the two sides."""
    if isinstance(tree, int):
        return [tensors[0][:, None]]
    found = []
    for node, t in zip(list(tree_nodes(tree))[1:], tensors, strict=True):
        found.append(t.T if isinstance(node, int) else np.moveaxis(t, 0, -1))
    rank = tensors[0].shape[0]
    return [np.eye(rank, dtype=tensors[0].dtype)[:, :, None], *found]
