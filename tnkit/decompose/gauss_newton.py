"""Damped Gauss–Newton steps on any topology: fast near a solution, where alternating least squares crawls.

With J_k = ∂x̂/∂θ_k, the blocks J_kᴴJ_l are small networks (the conjugated network without node k over the network without
node l), so J is never formed. The step solves (JᴴJ + μD) δ = Jᴴ(x − x̂); μ follows Nielsen's rule, as in
Levenberg–Marquardt (Madsen, Nielsen, Tingleff, Methods for non-linear least squares problems, 2004, section 3.2). The
residual is formed, not a difference of norms, so it converges to machine precision, and the error is the measured one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod

import torch
from torch import Tensor

from tnkit.decompose.sweep import LeastSquares
from tnkit.linalg import solve_gram

__all__ = ["NewtonState", "newton_start", "newton_step"]

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class NewtonState:
    """Where the iteration stands.

    Attributes:
        tensors: the parameters.
        error: relative error.
        damping: μ, as a share of the mean diagonal of a node's block.
        growth: what μ is multiplied by after a step that failed.
    """

    tensors: tuple[Tensor, ...]
    error: float
    damping: float = 1e-2
    growth: float = 2.0


def newton_start(problem: LeastSquares, tensors: Sequence[Tensor], damping: float = 1e-2) -> NewtonState:
    """The state of some parameters."""
    return NewtonState(tuple(tensors), problem.error(tensors), damping)


def newton_step(problem: LeastSquares, state: NewtonState, tries: int = 6) -> NewtonState:
    """One step that lowers the error, or the same parameters with more damping where none of some tries does.

    Cost: P² times the bonds' sizes for the blocks and P³/3 for the solution, P the number of parameters; one dense tensor
    for each try.
    """
    nodes = problem.nodes(state.tensors)
    rest, _ = problem.residual(nodes)
    slope = _gradient(problem, nodes, rest.to(problem.dtype))
    curvature = _curvature(problem, nodes)
    scale = _scale(problem, nodes, curvature)
    damping, growth = state.damping, state.growth
    for _ in range(tries):
        shifted = curvature + torch.diag_embed((scale * damping).to(curvature.dtype))
        delta = solve_gram(shifted, slope[:, None])[:, 0]
        moved = _moved(problem, nodes, delta)
        error = problem.residual(moved)[1]
        if error < state.error:
            gained = (state.error**2 - error**2) * problem.norm**2
            foreseen = float((delta.conj() * (scale * damping * delta + slope)).real.sum())
            ratio = gained / foreseen if foreseen > 0 else 1.0
            damping *= max(1 / 10, 1 - (2 * min(ratio, 1.5) - 1) ** 3)
            return NewtonState(problem.tensors(moved), error, max(damping, 1e-15), 2.0)
        damping, growth = damping * growth, growth * 2
    return NewtonState(state.tensors, state.error, damping if damping < 1e12 else inf, growth)


def _gradient(problem: LeastSquares, nodes: list[Tensor], rest: Tensor) -> Tensor:
    """Jᴴ(x − x̂), the nodes one after the other, in their own axis order."""
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


def _curvature(problem: LeastSquares, nodes: list[Tensor]) -> Tensor:
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
    problem: LeastSquares, nodes: list[Tensor], pairs: dict[int, list[tuple[Tensor, Labels]]], k: int, m: int
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


def _scale(problem: LeastSquares, nodes: list[Tensor], curvature: Tensor) -> Tensor:
    """For each parameter the mean diagonal of its node."""
    diagonal, start, parts = curvature.diagonal().real, 0, []
    for k in problem.parameters:
        n = prod(nodes[k].shape)
        mean = diagonal[start : start + n].mean()
        parts.append(mean.clamp_min(torch.finfo(diagonal.dtype).tiny).expand(n))
        start += n
    return torch.cat(parts)


def _moved(problem: LeastSquares, nodes: list[Tensor], delta: Tensor) -> list[Tensor]:
    moved, start = list(nodes), 0
    for k in problem.parameters:
        n = nodes[k].numel()
        moved[k] = nodes[k] + delta[start : start + n].reshape(nodes[k].shape).to(nodes[k].dtype)
        start += n
    return moved
