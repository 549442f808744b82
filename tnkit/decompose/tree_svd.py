"""Any tree network by one truncated SVD for each edge, from the leaves to the root.

The sequential truncation of TT-SVD (Oseledets, doi:10.1137/090752286) and of the hierarchical SVD (Grasedyck,
doi:10.1137/090764189) for an arbitrary tree, with its quasi-optimality: the error is at most √(edges) times the best.
Ranks under an error or a size are chosen for all edges together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.base import Fit, Method, Problem
from tnkit.decompose.measure import relative_error
from tnkit.errors import OptionError
from tnkit.formats import Layout
from tnkit.linalg import choose_ranks, spectrum, split
from tnkit.network import Topology
from tnkit.registry import METHODS
from tnkit.solvers import DIRECT, EPS_NOT_REACHED

__all__ = ["TreeSVD", "edges", "is_tree", "spanning_ranks", "tree_node", "tree_tensors"]

#: Attempts to spend what the bound of the error does not use.
RESPENDINGS = 5


@dataclass(frozen=True, slots=True)
class Edge:
    """A bond from a node towards the root.

    Attributes:
        label: the bond.
        node: its end away from the root.
        modes: the open labels beyond it.
    """

    label: str
    node: int
    modes: tuple[str, ...]


def edges(topology: Topology, sizes: Mapping[str, int]) -> tuple[Edge, ...] | None:
    """The edges of a tree, leaves first; None if the network is no tree.

    Bonds of size 1 may close loops: a ring with one bond of size 1 is a tree.
    """
    if any(c is not None for c in topology.constants):
        return None
    if any(len(topology.nodes_of(label)) != 1 for label in topology.output if sizes[label] > 1):
        return None
    neighbours: dict[int, list[tuple[int, str]]] = {k: [] for k in range(len(topology.inputs))}
    group = list(range(len(topology.inputs)))
    for label in sorted(topology.internal, key=lambda label: -sizes[label]):
        ends = topology.nodes_of(label)
        if sizes[label] > 1 and len(ends) != 2:
            return None
        if len(ends) == 2 and (sizes[label] > 1 or group[ends[0]] != group[ends[1]]):
            neighbours[ends[0]].append((ends[1], label))
            neighbours[ends[1]].append((ends[0], label))
            group = [group[ends[0]] if g == group[ends[1]] else g for g in group]
    root = _centre(topology, sizes)
    found: list[Edge] = []
    seen = {root}

    def below(node: int) -> tuple[str, ...] | None:
        modes = tuple(label for label in topology.inputs[node] if label in topology.output and sizes[label] > 1)
        for other, label in neighbours[node]:
            if towards.get(node) == label:
                continue
            if other in seen:
                return None
            seen.add(other)
            towards[other] = label
            inside = below(other)
            if inside is None:
                return None
            found.append(Edge(label, other, inside))
            modes += inside
        return modes

    towards: dict[int, str] = {}
    covered = below(root)
    if covered is None or set(covered) != {label for label in topology.output if sizes[label] > 1}:
        return None
    return tuple(found)


def _centre(topology: Topology, sizes: Mapping[str, int]) -> int:
    """The node that is best left to the end: the one with most bonds, and the largest modes."""

    def weight(k: int) -> tuple[int, int]:
        labels = topology.inputs[k]
        return (
            sum(label not in topology.output and sizes[label] > 1 for label in labels),
            prod(sizes[label] for label in labels if label in topology.output),
        )

    return max(range(len(topology.inputs)), key=weight)


def is_tree(layout: Layout, ranks: Sequence[int] | None = None) -> bool:
    """Whether the network is a tree at these ranks (its largest ones by default)."""
    return edges(layout.topology, layout.label_sizes(layout.caps if ranks is None else ranks)) is not None


def spanning_ranks(layout: Layout, ranks: Sequence[int]) -> tuple[int, ...] | None:
    """The ranks with those bonds cut to 1 that close loops, so that a tree is left; of each loop the smallest goes.

    Every bond of the tree is also cut to what it can use. None if that leaves no tree (hyperedges, shared modes).
    """
    topology, sizes = layout.topology, layout.label_sizes(ranks)
    group = list(range(len(topology.inputs)))
    kept = dict.fromkeys(layout.bonds, 1)
    for label in sorted(layout.bonds, key=lambda label: -sizes[label]):
        ends = topology.nodes_of(label)
        if len(ends) == 2 and group[ends[0]] != group[ends[1]]:
            kept[label] = sizes[label]
            group = [group[ends[0]] if g == group[ends[1]] else g for g in group]
    path = edges(topology, {**sizes, **kept})
    if path is None:
        return None
    total = prod(sizes[label] for label in topology.output)
    for edge in path:
        inside = prod(sizes[label] for label in edge.modes)
        kept[edge.label] = min(kept[edge.label], inside, total // inside)
    return tuple(kept[bond] for bond in layout.bonds)


def tree_tensors(
    x: Tensor, layout: Layout, ranks: Sequence[int], rng: torch.Generator, norm: float
) -> tuple[Tensor, ...] | None:
    """The tensors of a tree at these ranks, by sequential truncation.

    Args:
        x: in the order of the topology's open labels.
        layout: a tree at these ranks; an edge may need less than its rank, and is then padded with zeros.
        ranks: one a bond.
        rng: for randomised splits.
        norm: ‖x‖.

    Returns:
        One tensor a node, or None if the network is no tree at these ranks.
    """
    sizes = layout.label_sizes(ranks)
    path = edges(layout.topology, sizes)
    if path is None:
        return None
    topology = layout.topology
    labels = [label for label in topology.output if sizes[label] > 1]
    core = x.reshape([sizes[label] for label in labels])
    nodes: dict[int, Tensor] = {}
    for edge in path:
        mine = [label for label in labels if label in topology.inputs[edge.node]]
        rest = [label for label in labels if label not in mine]
        rows = [sizes[label] for label in mine]
        matrix = core.permute([labels.index(label) for label in (*mine, *rest)]).reshape(prod(rows), -1)
        part = split(matrix, max_rank=min(sizes[edge.label], *matrix.shape), rng=rng)
        wanted = sizes[edge.label]
        basis = _padded(part.basis, 1, wanted)
        core = _padded(part.rest, 0, wanted).reshape(wanted, *(sizes[label] for label in rest))
        labels = [edge.label, *rest]
        nodes[edge.node] = tree_node(
            basis.reshape(*rows, wanted), [*mine, edge.label], topology.inputs[edge.node], sizes
        )
    done = set(nodes)
    last = [k for k in range(len(topology.inputs)) if k not in done]
    root = next((k for k in last if all(label in topology.inputs[k] for label in labels)), last[0])
    nodes[root] = tree_node(core, labels, topology.inputs[root], sizes)
    for k in last:
        if k != root:  # hangs on by labels of size 1 alone
            nodes[k] = x.new_ones([sizes[label] for label in topology.inputs[k]])
    return tuple(nodes[k] for k in range(len(topology.inputs)))


def _padded(t: Tensor, axis: int, size: int) -> Tensor:
    if t.shape[axis] == size:
        return t
    shape = list(t.shape)
    shape[axis] = size - t.shape[axis]
    return torch.cat([t, t.new_zeros(shape)], dim=axis)


def tree_node(t: Tensor, labels: Sequence[str], wanted: Sequence[str], sizes: Mapping[str, int]) -> Tensor:
    """A tensor with these labels in the order of a node; labels of size 1 that it lacks are put in."""
    order = [labels.index(label) for label in wanted if label in labels]
    return t.permute(order).reshape([sizes[label] for label in wanted]).contiguous()


@dataclass(frozen=True, slots=True)
class TreeSVD(Method):
    """Sequential truncated SVDs along the edges of a tree network (quasi-optimal; doi:10.1137/090764189).

    Example:
        >>> import torch, tnkit as tk
        >>> x = tk.random_format("ia,ajb,bkc,cl->ijkl", (4, 5, 6, 3), 2, rng=0).to_dense()
        >>> tk.decompose(x, "ia,ajb,bkc,cl->ijkl", eps=1e-8, method="tree_svd").ranks
        (2, 2, 2)
    """

    name: ClassVar[str] = "tree_svd"
    formats: ClassVar[tuple[str, ...]] = ("*",)
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "truncated SVDs along the edges of a tree network, ranks chosen for all edges together"

    def suits(self, layout: Layout) -> bool:
        """Trees only."""
        return is_tree(layout)

    def fit(self, problem: Problem) -> Fit:
        """Ranks from the spectra of all edges, then one truncation for each.

        Raises:
            OptionError: the network is no tree.
        """
        layout, target = problem.layout, problem.target
        path = edges(layout.topology, layout.label_sizes(layout.caps))
        if path is None:
            raise OptionError(f"tree_svd needs a tree; {layout.topology} is none. Use method='als'.")
        if target.eps is None and target.max_params is None:
            tensors = tree_tensors(problem.x, layout, problem.max_ranks, problem.rng, problem.norm)
            assert tensors is not None  # it is a tree at the largest ranks, so at smaller ones too
            return Fit(tensors, None, status=DIRECT)
        tensors, error = fit_tree(problem, path)
        missed = target.eps is not None and error > target.eps
        return Fit(tensors, error, status=EPS_NOT_REACHED if missed else DIRECT)


def fit_tree(problem: Problem, path: Sequence[Edge]) -> tuple[tuple[Tensor, ...], float]:
    """Tensors of the smallest ranks that keep eps, or the best within a size, and their relative error.

    The tails of all edges together bound the squared error from above. What the bound does not use is spent again: the
    energy that may be discarded is raised as long as the measured error allows.
    """
    layout, target, allowed = problem.layout, problem.target, problem.error2_allowed
    spectra = edge_spectra(problem, path)

    def choose(energy: float | None) -> tuple[int, ...]:
        return choose_ranks(
            spectra, layout.n_params, max_error2=energy, max_cost=target.max_params, caps=problem.max_ranks
        )

    def build(ranks: tuple[int, ...]) -> tuple[tuple[Tensor, ...], float]:
        tensors = tree_tensors(problem.x, layout, ranks, problem.rng, problem.norm)
        assert tensors is not None  # smaller ranks leave a tree a tree
        value = layout.format.from_tensors(tensors, **layout.static)
        return tensors, relative_error(problem.x, value, norm=problem.norm)

    ranks = choose(allowed)
    best, error = build(ranks)
    if allowed is None or target.eps is None or error > target.eps:
        return best, error
    low, high = allowed, allowed * len(path)
    for _ in range(RESPENDINGS):
        energy = (low * high) ** 0.5
        tried = choose(energy)
        if layout.n_params(tried) >= layout.n_params(ranks):
            low = energy
            continue
        tensors, missed = build(tried)
        if missed <= target.eps:
            best, error, ranks, low = tensors, missed, tried, energy
        else:
            high = energy
    return best, error


def edge_spectra(problem: Problem, path: Sequence[Edge]) -> list[Tensor]:
    """For each bond the squared singular values of its cut."""
    layout, allowed = problem.layout, problem.error2_allowed
    found = {edge.label: edge for edge in path}
    sizes, output = layout.label_sizes(layout.caps), layout.topology.output
    spectra: list[Tensor] = []
    for bond in layout.bonds:
        if bond not in found:
            spectra.append(torch.ones(1, dtype=torch.float64))
            continue
        inside = [output.index(label) for label in found[bond].modes]
        outside = [k for k in range(len(output)) if k not in inside]
        rows = prod(sizes[label] for label in found[bond].modes)
        matrix = problem.x.permute(*inside, *outside).reshape(rows, -1)
        tail2 = None if allowed is None else allowed / len(path)
        spectra.append(spectrum(matrix, tail2=tail2, norm2=problem.norm**2).s2)
    return spectra


METHODS.register(TreeSVD.name, TreeSVD)
