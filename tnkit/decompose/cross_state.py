"""Pivots on a tree, and the interpolation that they stand for.

Every edge cuts the modes in two, and carries r pivots: points of the whole domain, of which each side sees its part.
A node's tensor holds the entries at all combinations of the far parts of its edges' pivots. With the pivot matrix
P = f(near parts, far parts) of each edge, the array is interpolated by the product of the nodes' tensors with P⁻¹ on
every edge (Núñez Fernández et al., arXiv:2407.02454, section 4; for trees arXiv:2410.03572).

P⁻¹ is never formed: T P⁻¹ = Q Q_p⁻¹ for the orthonormal basis Q of T's columns and its pivot rows Q_p.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tnkit.decompose.cross_tree import PivotTree

__all__ = [
    "Pivots",
    "Points",
    "Values",
    "add_pivot",
    "candidates",
    "first_pivot",
    "interpolation",
    "local_residual",
    "node_tensors",
    "unfolded",
]

Array: TypeAlias = "NDArray[Any]"
Points: TypeAlias = "NDArray[np.int64]"
Values: TypeAlias = "Callable[[Points], Array]"
Place: TypeAlias = "tuple[int, ...] | None"


@dataclass(frozen=True)
class Pivots:
    """The pivots of all edges and the entries that they select; never changed in place.

    Attributes:
        tree: the tree.
        points: for each edge (r, d): its pivots.
        matrices: for each edge P, (r, r): rows are the parts of the edge's first node, columns of the second.
        nodes: for each node the entries at all combinations: an axis for each edge, then the mode.
        places: for (node, edge) where its part of each pivot stands among the node's own combinations, as an index
            into its tensor without the edge's axis; None where it does not.
    """

    tree: PivotTree
    points: tuple[Points, ...]
    matrices: tuple[Array, ...]
    nodes: tuple[Array, ...]
    places: dict[tuple[int, int], tuple[Place, ...]]

    @property
    def ranks(self) -> tuple[int, ...]:
        """The number of pivots of each edge."""
        return tuple(len(p) for p in self.points)


def first_pivot(tree: PivotTree, f: Values, point: Points) -> Pivots:
    """One pivot for all edges: interpolation of rank 1 through a point where f is not zero."""
    points = tuple(point[None] for _ in tree.edges)
    value = f(point[None])
    nodes = []
    for node, mode in enumerate(tree.modes):
        combos = np.repeat(point[None], 1 if mode is None else tree.shape[mode], axis=0)
        if mode is not None:
            combos[:, mode] = np.arange(tree.shape[mode])
        nodes.append(f(combos).reshape((1,) * len(tree.edges_of[node]) + (() if mode is None else (-1,))))
    places: dict[tuple[int, int], tuple[Place, ...]] = {}
    for e, pair in enumerate(tree.edges):
        for node in pair:
            mode = tree.modes[node]
            own = () if mode is None else (int(point[mode]),)
            places[node, e] = ((0,) * (len(tree.edges_of[node]) - 1) + own,)
    return Pivots(tree, points, tuple(value[:, None] for _ in tree.edges), tuple(nodes), places)


def candidates(pivots: Pivots, node: int, edge: int) -> Points:
    """All combinations on the node's side of an edge, (m, d), zero in the modes of the other side."""
    tree = pivots.tree
    combos = np.zeros((1, len(tree.shape)), dtype=np.int64)
    for e in tree.edges_of[node]:
        if e != edge:
            far = pivots.points[e] * tree.inside[tree.other(e, node), e]
            combos = (combos[:, None] + far[None]).reshape(-1, combos.shape[1])
    mode = tree.modes[node]
    if mode is not None:
        own = np.zeros((tree.shape[mode], combos.shape[1]), dtype=np.int64)
        own[:, mode] = np.arange(tree.shape[mode])
        combos = (combos[:, None] + own[None]).reshape(-1, combos.shape[1])
    return combos


def unfolded(pivots: Pivots, node: int, edge: int) -> Array:
    """The node's tensor with the edge's axis last: (m, r), rows in the order of `candidates`."""
    t = np.moveaxis(pivots.nodes[node], pivots.tree.edges_of[node].index(edge), -1)
    return t.reshape(-1, t.shape[-1])


def interpolation(pivots: Pivots, node: int, edge: int) -> Array:
    """T P⁻¹ for the node's side of an edge: (m, r), the identity in the pivots' rows."""
    t = unfolded(pivots, node, edge)
    tree, places = pivots.tree, pivots.places[node, edge]
    own = [n for k, n in enumerate(pivots.nodes[node].shape) if k != tree.edges_of[node].index(edge)]
    matrix = pivots.matrices[edge] if tree.edges[edge][0] == node else pivots.matrices[edge].T
    outside = [k for k, place in enumerate(places) if place is None]
    stacked = np.concatenate([t, matrix[outside]]) if outside else t
    rows, next_ = [], len(t)
    for place in places:
        if place is None:
            rows.append(next_)
            next_ += 1
        else:
            rows.append(int(np.ravel_multi_index(place, own)) if own else 0)
    q = np.linalg.qr(stacked)[0]
    if q.shape[1] < t.shape[1]:
        return np.linalg.lstsq(matrix.T, t.T, rcond=None)[0].T
    try:
        found = np.linalg.solve(q[rows].T, q.T).T
    except np.linalg.LinAlgError:
        found = q @ np.linalg.pinv(q[rows])
    return found[: len(t)]


def add_pivot(pivots: Pivots, f: Values, edge: int, point: Points) -> Pivots:
    """The pivots with one more at an edge; asks for the new slices of the two nodes' tensors."""
    tree = pivots.tree
    first, second = tree.edges[edge]
    near, far = tree.inside[first, edge], tree.inside[second, edge]
    old = pivots.points[edge]
    points = np.concatenate([old, point[None]])
    nodes, places = list(pivots.nodes), dict(pivots.places)
    for node, mine, theirs in ((first, near, far), (second, far, near)):
        combos = candidates(pivots, node, edge)
        axis = tree.edges_of[node].index(edge)
        slice_shape = [n for k, n in enumerate(nodes[node].shape) if k != axis]
        values = f(combos + (point * theirs)[None]).reshape(slice_shape)
        nodes[node] = np.concatenate([nodes[node], np.expand_dims(values, axis)], axis)
        places[node, edge] = (*places[node, edge], _place(pivots, node, edge, point * mine))
    cross = f(np.concatenate([old * near + point * far, (points * far + point * near)]))
    column, row = cross[: len(old)], cross[len(old) :]
    matrix = np.block([[pivots.matrices[edge], column[:, None]], [row[None, :]]])
    grown = replace(
        pivots,
        points=(*pivots.points[:edge], points, *pivots.points[edge + 1 :]),
        matrices=(*pivots.matrices[:edge], matrix, *pivots.matrices[edge + 1 :]),
        nodes=tuple(nodes),
        places=places,
    )
    return _replaced(grown, edge, point)


def _place(pivots: Pivots, node: int, edge: int, part: Points) -> Place:
    """Where a part stands among the combinations of the node's other edges; None if it does not."""
    tree = pivots.tree
    found = []
    for e in tree.edges_of[node]:
        if e != edge:
            mask = tree.inside[tree.other(e, node), e]
            same = np.flatnonzero((pivots.points[e][:, mask] == part[mask]).all(axis=1))
            if not len(same):
                return None
            found.append(int(same[0]))
    mode = tree.modes[node]
    return (*found, *(() if mode is None else (int(part[mode]),)))


def _replaced(pivots: Pivots, edge: int, point: Points) -> Pivots:
    """Parts that had no place, and have one now that the edge has this pivot."""
    places = dict(pivots.places)
    for (node, e), known in pivots.places.items():
        if e != edge and edge in pivots.tree.edges_of[node] and None in known:
            mask = pivots.tree.inside[node, e]
            places[node, e] = tuple(
                _place(pivots, node, e, pivots.points[e][k] * mask) if place is None else place
                for k, place in enumerate(known)
            )
    return replace(pivots, places=places)


def node_tensors(pivots: Pivots) -> list[Array]:
    """The interpolation as tensors of the tree's nodes: T P⁻¹ towards the root, T itself in the root."""
    tree = pivots.tree
    done: list[Array] = list(pivots.nodes)
    for node, _, edge in tree.tour:
        if edge is None:
            continue
        axis = tree.edges_of[node].index(edge)
        t = np.moveaxis(pivots.nodes[node], axis, -1)
        done[node] = np.moveaxis(interpolation(pivots, node, edge).reshape(t.shape), -1, axis)
    return done


def _parts(pivots: Pivots, edge: int) -> tuple[Points, Points]:
    """The near and the far parts of an edge's pivots."""
    tree = pivots.tree
    first, second = tree.edges[edge]
    return pivots.points[edge] * tree.inside[first, edge], pivots.points[edge] * tree.inside[second, edge]


def local_residual(pivots: Pivots, f: Values, edge: int, point: Points) -> float:
    """|f − its interpolation from this edge's pivots alone| at a point of the whole domain."""
    tree = pivots.tree
    first, second = tree.edges[edge]
    near, far = _parts(pivots, edge)
    row = f(far + point * tree.inside[first, edge])
    column = f(near + point * tree.inside[second, edge])
    guess = row @ np.linalg.lstsq(pivots.matrices[edge], column, rcond=None)[0]
    return float(np.abs(f(point[None])[0] - guess))
