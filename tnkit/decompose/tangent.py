"""The derivative of a network's dense tensor with respect to its nodes, as far as Gauss–Newton needs it.

With J_k = ∂x̂/∂θ_k, the blocks J_kᴴJ_m are small networks (the conjugated network without node k over the network
without node m), so J is never formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tnkit.decompose.sweep import LeastSquares

__all__ = ["curvature", "gradient", "scale"]

Labels = tuple[str, ...]


def gradient(problem: LeastSquares, nodes: list[Tensor], rest: Tensor) -> Tensor:
    """Jᴴ rest, the nodes one after the other, in their own axis order."""
    parts = dict.fromkeys(problem.parameters, rest)
    for k, side, _ in problem.leaves(nodes, rest):
        kinds, labels = problem.labels[k], problem.graph.inputs[k]
        given = (*kinds.batch, *kinds.bond, *kinds.free)
        shape = dict(zip(labels, nodes[k].shape, strict=True))
        side = side.reshape(*(shape[label] for label in given), *(1 for _ in kinds.lone))
        side = side.expand(*(shape[label] for label in (*given, *kinds.lone)))
        order = [(*given, *kinds.lone).index(label) for label in labels]
        parts[k] = side.permute(order).reshape(-1)
    whole = torch.cat([parts[k] for k in problem.parameters]).to(problem.wide)
    return whole.real if problem.real and whole.is_complex() else whole


def curvature(problem: LeastSquares, nodes: Sequence[Tensor]) -> Tensor:
    """JᴴJ, (P, P)."""
    pairs = {j: problem.pair(nodes, j) for j in range(len(nodes))}
    sizes = [nodes[k].numel() for k in problem.parameters]
    dtype = problem.wide.to_real() if problem.real and problem.wide.is_complex else problem.wide
    whole = torch.zeros((sum(sizes), sum(sizes)), dtype=dtype, device=problem.x.device)
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    for a, k in enumerate(problem.parameters):
        for b, m in list(enumerate(problem.parameters))[a:]:
            block = _block(problem, nodes, pairs, k, m).reshape(sizes[a], sizes[b])
            block = block.real if problem.real and block.is_complex() else block
            whole[starts[a] : starts[a] + sizes[a], starts[b] : starts[b] + sizes[b]] = block
            if m != k:
                whole[starts[b] : starts[b] + sizes[b], starts[a] : starts[a] + sizes[a]] = block.mH
    return whole


def _block(
    problem: LeastSquares, nodes: Sequence[Tensor], pairs: dict[int, list[tuple[Tensor, Labels]]], k: int, m: int
) -> Tensor:
    """J_kᴴJ_m, with the axes of node k and then those of node m."""
    graph = problem.graph
    terms = [term for j, pair in pairs.items() if j not in (k, m) for term in pair]
    if k != m:
        conj = tuple(label if label in graph.output else label + "'" for label in graph.inputs[m])
        terms += [(nodes[m].to(problem.wide).conj(), conj), (nodes[k].to(problem.wide), graph.inputs[k])]
    rows = [label if label in graph.output else label + "'" for label in graph.inputs[k]]
    columns = list(graph.inputs[m])
    for axis, label in enumerate(columns):
        if label in rows:  # an open label on both: the block is diagonal in it
            n = nodes[m].shape[axis]
            terms.append((torch.eye(n, dtype=problem.wide, device=problem.x.device), (label, label + "~")))
            columns[axis] = label + "~"
    known = {label for _, labels in terms for label in labels}
    for label, n in zip([*rows, *columns], [*nodes[k].shape, *nodes[m].shape], strict=True):
        if label not in known:
            terms.append((torch.ones(n, dtype=problem.wide, device=problem.x.device), (label,)))
    return problem.network(terms, (*rows, *columns))


def scale(sizes: Sequence[int], curvature: Tensor) -> Tensor:
    """For each parameter the mean diagonal of its node's block."""
    parts = [
        p.mean().clamp_min(torch.finfo(p.dtype).tiny).expand(len(p))
        for p in curvature.diagonal().real.split(list(sizes))
    ]
    return torch.cat(parts)
