"""Tree networks of a dense array, leaves first: by ranks, by an error, by a size. HT and equations that are trees share it.

Every edge is cut once by an orthogonal projection of what the ones before have left (Grasedyck 2010,
doi:10.1137/090764189), so the squared errors add up exactly. By error or size: first a rough tree at a tighter tolerance;
in it all spectra are known, and the ranks are chosen together (`formats.rank_plan`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from tnkit.decompose.allowance import allowed2, exact_norm2, floor2, known_error
from tnkit.decompose.base import Fit, Problem
from tnkit.decompose.tree_svd import edges, tree_node
from tnkit.formats.rank_plan import Limits, truncate_within
from tnkit.formats.trees import tree_of
from tnkit.linalg import split

__all__ = ["Rough", "fit_tree", "rough_tree"]

_FINE = 0.01  # share of the squared error that the rough tree may spend


@dataclass(frozen=True, slots=True, eq=False)
class Rough:
    """A tree at a tolerance.

    Attributes:
        tensors: one a node, in the order of the topology.
        lost2: the squared error.
        certain: whether that is true to 1 %.
    """

    tensors: tuple[Tensor, ...]
    lost2: float
    certain: bool


def rough_tree(problem: Problem, caps: Mapping[str, int], tail2: float | None) -> Rough:
    """One truncation for each edge, leaves first.

    Args:
        problem: its layout is a tree.
        caps: the largest rank of each bond.
        tail2: the squared error that each edge may discard; None for the ranks in `caps`.

    Cost:
        one split of the array for each edge, each of what is left of it.
    """
    topology = problem.layout.topology
    sizes: dict[str, int] = {**problem.layout.sizes, **dict.fromkeys(problem.layout.bonds, 1)}
    path = edges(topology, problem.layout.label_sizes(problem.layout.caps))
    assert path is not None  # the caller's method suits trees only
    labels = [label for label in topology.output if sizes[label] > 1]
    core = problem.x.reshape([sizes[label] for label in labels])
    norm2, lost2, certain = exact_norm2(problem), 0.0, True
    nodes: dict[int, Tensor] = {}
    for edge in path:
        mine = [label for label in labels if label in topology.inputs[edge.node]]
        rest = [label for label in labels if label not in mine]
        rows = [sizes[label] for label in mine]
        matrix = core.permute([labels.index(label) for label in (*mine, *rest)]).reshape(prod(rows), -1)
        limit = min(caps[edge.label], *matrix.shape)
        part = split(matrix, max_rank=limit, tail2=tail2, norm2=max(norm2 - lost2, 0.0), rng=problem.rng)
        lost2 += part.discarded2
        certain = certain and (part.certain or part.rank == min(matrix.shape))
        sizes[edge.label] = part.rank
        core = part.rest.reshape(part.rank, *(sizes[label] for label in rest))
        labels = [edge.label, *rest]
        basis = part.basis.reshape(*rows, part.rank)
        nodes[edge.node] = tree_node(basis, [*mine, edge.label], topology.inputs[edge.node], sizes)
    last = [k for k in range(len(topology.inputs)) if k not in nodes]
    root = next((k for k in last if all(label in topology.inputs[k] for label in labels)), last[0])
    nodes[root] = tree_node(core, labels, topology.inputs[root], sizes)
    for k in last:
        if k != root:  # hangs on by labels of size 1 alone
            nodes[k] = problem.x.new_ones([sizes[label] for label in topology.inputs[k]])
    return Rough(tuple(nodes[k] for k in range(len(topology.inputs))), lost2, certain)


def fit_tree(problem: Problem) -> Fit:
    """The tree for what is asked: see the module."""
    layout, target = problem.layout, problem.target
    caps = dict(zip(layout.bonds, problem.max_ranks, strict=True))
    error2 = allowed2(problem)
    if error2 is None and target.max_params is None:
        rough = rough_tree(problem, caps, None)
        return Fit(rough.tensors, known_error(problem, rough.lost2, rough.certain))
    if target.max_params is not None:
        caps = {bond: min(cap, _alone(problem, k)) for k, (bond, cap) in enumerate(caps.items())}
    least = floor2(problem)
    share = least if error2 is None else max(error2 * _FINE, least)
    rough = rough_tree(problem, caps, share / max(1, len(layout.bonds)))
    left = None if error2 is None else max(error2 - rough.lost2, 0.0)
    ranks = layout.ranks_of(rough.tensors)
    limits = Limits(tuple(ranks), left, target.max_params)
    done = truncate_within(tree_of(layout.topology), rough.tensors, layout.bonds, limits)
    return Fit(done.tensors, known_error(problem, rough.lost2 + done.lost2, rough.certain or done.lost2 > rough.lost2))


def _alone(problem: Problem, position: int) -> int:
    """The largest rank of a bond that fits the size with all others at 1."""
    layout, limit = problem.layout, problem.target.max_params
    assert limit is not None
    low, high = 1, layout.caps[position]
    ones = [1] * len(layout.bonds)
    while low < high:
        middle = (low + high + 1) // 2
        ones[position] = middle
        low, high = (middle, high) if layout.n_params(ones) <= limit else (low, middle - 1)
    return low
