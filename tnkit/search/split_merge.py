"""Split a node into two by a truncated SVD where that saves numbers, and merge two nodes where that does.

This is how a greedy search, which starts with one node a mode, comes to inner nodes (such as a Tucker core), and how
nodes that have become useless go.

Reference: Hashemizadeh, Liu, Miller, Rabusseau, arXiv 2008.05437, section 4.

Example:
    >>> import torch
    >>> from tnkit.search.graph import Graph
    >>> graph = Graph((9, 9, 9), [(0,), (1,), (2,)], {(0, 1): 3, (0, 2): 3})
    >>> gen = torch.Generator().manual_seed(0)
    >>> wide = torch.randn(9, 2, generator=gen) @ torch.randn(2, 9, generator=gen)
    >>> trial = Trial(graph, (wide.reshape(9, 3, 3), torch.ones(9, 3), torch.ones(9, 3)), 0.1)
    >>> [str(found.graph) for found in splits(trial, 1e-5)]
    ['0-+0:2 1-+0:3 2-+0:3']
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor

from tnkit.linalg.split_svd import safe_svd
from tnkit.search.graph import Bond, Graph
from tnkit.search.objective import Trial

__all__ = ["merges", "splits"]


def splits(trial: Trial, tol: float) -> Iterator[Trial]:
    """For each node the split that saves most, where one does.

    Args:
        trial: a graph with its tensors.
        tol: the share of a node's norm that its split may lose.

    Yields:
        Graphs with one node more, and their tensors; the error is that of before.
    """
    for node in range(len(trial.graph.nodes)):
        found = [made for made in _splits_of(trial, node, tol) if made.graph.n_params < trial.graph.n_params]
        if found:
            yield min(found, key=lambda made: made.graph.n_params)


def merges(trial: Trial) -> Iterator[Trial]:
    """Each pair of joined nodes as one, where that is no larger and one of them holds no mode."""
    graph = trial.graph
    for a, b in graph.ranks:
        if graph.nodes[a] and graph.nodes[b]:
            continue
        made = _merged(trial, a, b)
        if made.graph.n_params <= graph.n_params:
            yield made


def _labels(graph: Graph, node: int) -> tuple[str, ...]:
    return graph.topology.inputs[node]


def _splits_of(trial: Trial, node: int, tol: float) -> Iterator[Trial]:
    graph, tensor = trial.graph, trial.tensors[node]
    labels = _labels(graph, node)
    modes = [k for k, label in enumerate(labels) if label.startswith("m")]
    bonds = [k for k in range(len(labels)) if k not in modes]
    for count in range(len(bonds) - 1):  # the new node has two bonds or more
        for kept in combinations(bonds, count):
            left, right = [*modes, *kept], [k for k in bonds if k not in kept]
            rows = tensor.permute(*left, *right).reshape(_prod(tensor, left), -1)
            u, s, vh = safe_svd(rows)
            tails = s.square().flip(0).cumsum(0).flip(0).sqrt()
            rank = max(1, int((tails > tol * float(tails[0])).sum()))
            new = len(graph.nodes)
            moved = {_other(graph, labels[k], node): graph.rank((node, _other(graph, labels[k], node))) for k in right}
            ranks: dict[Bond, int] = {
                b: r for b, r in graph.ranks.items() if not (node in b and _far(b, node) in moved)
            }
            ranks |= {(far, new): r for far, r in moved.items()}
            ranks[node, new] = max(rank, 1)
            made = Graph(graph.shape, [*graph.nodes, ()], ranks)
            if rank < 2 or made.n_params >= graph.n_params:
                continue
            first = u[:, :rank].reshape(*(tensor.shape[k] for k in left), rank)
            second = (s[:rank, None].to(vh.dtype) * vh[:rank]).reshape(rank, *(tensor.shape[k] for k in right))
            names = {labels[k]: f"b{min(_other(graph, labels[k], node), new)}_{new}" for k in right}
            one = ([labels[k] for k in left] + [f"b{node}_{new}"], first)
            two = ([f"b{node}_{new}"] + [names[labels[k]] for k in right], second)
            parts = [
                one if k == node else ([names.get(label, label) for label in _labels(graph, k)], t)
                for k, t in enumerate(trial.tensors)
            ]
            yield _ordered(made, [*parts, two], trial)


def _merged(trial: Trial, a: int, b: int) -> Trial:
    """Two nodes as one at the place of the first; bonds to the same third node become one."""
    graph = trial.graph
    place = {k: (a if k == b else k) - (k > b) for k in range(len(graph.nodes))}
    place[b] = place[a]
    nodes = [modes for k, modes in enumerate(graph.nodes) if k != b]
    nodes[place[a]] = tuple(sorted(graph.nodes[a] + graph.nodes[b]))
    ranks: dict[Bond, int] = {}
    for (p, q), r in graph.ranks.items():
        p2, q2 = sorted((place[p], place[q]))
        if p2 != q2:
            ranks[p2, q2] = ranks.get((p2, q2), 1) * r
    made = Graph(graph.shape, nodes, ranks)
    sides = [_labels(graph, k) for k in (a, b)]
    symbol = {label: k for k, label in enumerate(dict.fromkeys([*sides[0], *sides[1]]))}
    joined = f"b{a}_{b}"
    rest = [label for label in symbol if label != joined]
    tensor = torch.einsum(
        trial.tensors[a],
        [symbol[x] for x in sides[0]],
        trial.tensors[b],
        [symbol[x] for x in sides[1]],
        [symbol[x] for x in rest],
    )
    parts = [
        _fused(graph, place, rest, tensor) if k == a else _fused(graph, place, list(_labels(graph, k)), t)
        for k, t in enumerate(trial.tensors)
        if k != b
    ]
    return _ordered(made, parts, trial)


def _fused(graph: Graph, place: dict[int, int], labels: list[str], t: Tensor) -> tuple[list[str], Tensor]:
    """Axes of bonds that now lead to the same node as one axis, those of the lower numbers first."""
    groups: dict[str, list[int]] = {}
    ends = {f"b{p}_{q}": (p, q) for p, q in graph.ranks}
    for axis, label in sorted(enumerate(labels), key=lambda pair: ends.get(pair[1], (-1, -1))):
        if label in ends:
            p, q = (place[end] for end in ends[label])
            label = f"b{min(p, q)}_{max(p, q)}"
        groups.setdefault(label, []).append(axis)
    order = [axis for axes in groups.values() for axis in axes]
    return list(groups), t.permute(order).reshape([_prod(t, axes) for axes in groups.values()])


def _ordered(graph: Graph, parts: list[tuple[list[str], Tensor]], trial: Trial) -> Trial:
    """Tensors in the order of the labels of the graph."""
    tensors = [
        t.permute([labels.index(label) for label in wanted]).contiguous()
        for wanted, (labels, t) in zip(graph.topology.inputs, parts, strict=True)
    ]
    return Trial(graph, tuple(tensors), trial.error, by=trial.by)


def _other(graph: Graph, label: str, node: int) -> int:
    a, b = (int(part) for part in label[1:].split("_"))
    return b if a == node else a


def _far(bond: Bond, node: int) -> int:
    return bond[1] if bond[0] == node else bond[0]


def _prod(t: Tensor, axes: list[int]) -> int:
    size = 1
    for axis in axes:
        size *= t.shape[axis]
    return size
