"""Fit a large array in the leading basis of each of its modes first, where every step is cheap; polish on the array.

Reference: Bro & Andersson, doi:10.1016/S0169-7439(98)00011-2, for CP; here for any network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod, sqrt
from typing import TypeAlias

import torch
from torch import Tensor

from tnkit.decompose.base import Problem
from tnkit.decompose.descent import Trial
from tnkit.formats import Layout
from tnkit.linalg import split

__all__ = ["fit_compressed"]

#: Arrays of more entries are compressed, if that makes them so many times smaller.
LARGE, SMALLER = 2**17, 6

Solve: TypeAlias = "Callable[[Problem, Sequence[Tensor] | None, float | None], Trial]"


def fit_compressed(
    problem: Problem, ranks: Sequence[int], start: Sequence[Tensor] | None, goal: float | None, solve: Solve
) -> Trial | None:
    """The fit of the Tucker core, and its tensors multiplied by the bases.

    Args:
        problem: of any topology each of whose modes is on one node.
        ranks: one a bond; a mode's basis is a little larger than the bonds of its node together.
        start: tensors to begin with.
        goal: a relative error at which to stop.
        solve: the fit, for a smaller problem, a start and a goal for it.

    Returns:
        Tensors for the array with their relative error to it, or None if the array is small, or hardly gets smaller so.
    """
    x, layout = problem.x, problem.layout
    sizes = _basis_sizes(layout, ranks)
    if sizes is None or x.numel() <= LARGE or prod(sizes) * SMALLER > x.numel():
        return None
    bases, core = list[Tensor](), x
    for k, size in enumerate(sizes):
        unfolded = core.movedim(k, 0).reshape(core.shape[k], -1)
        part = split(unfolded, max_rank=min(size, *unfolded.shape), rng=problem.rng)
        bases.append(part.basis)
        rest = [n for j, n in enumerate(core.shape) if j != k]
        core = part.rest.reshape(-1, *rest).movedim(0, k)
    core = core.contiguous()
    norm = float(torch.linalg.vector_norm(core))
    lost2 = max(0.0, problem.norm**2 - norm**2)
    if goal is not None:
        left2 = (goal * problem.norm) ** 2 - lost2
        goal = sqrt(left2) / norm if left2 > 0 else 0.0
    small = replace(problem, x=core, norm=norm, layout=_smaller(layout, core.shape))
    inside = None if start is None else _turned(layout, [b.mH for b in bases], start)
    trial = solve(small, inside, goal)
    error = sqrt(lost2 + (trial.error * norm) ** 2) / problem.norm
    return replace(trial, tensors=_turned(layout, bases, trial.tensors), error=error)


def _basis_sizes(layout: Layout, ranks: Sequence[int]) -> tuple[int, ...] | None:
    topology, sizes = layout.topology, layout.label_sizes(ranks)
    found = []
    for mode in topology.output:
        holders = topology.nodes_of(mode)
        if len(holders) != 1 or topology.constants[holders[0]] is not None:
            return None
        bonds = prod(sizes[label] for label in topology.inputs[holders[0]] if label not in topology.output)
        found.append(min(sizes[mode], bonds + 10 + bonds // 4))
    return tuple(found)


def _smaller(layout: Layout, shape: Sequence[int]) -> Layout:
    sizes = {**layout.sizes, **dict(zip(layout.topology.output, shape, strict=True))}
    return replace(layout, shape=tuple(shape), sizes=sizes, tensorization=None)


def _turned(layout: Layout, matrices: Sequence[Tensor], tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Each mode multiplied by its matrix."""
    topology, nodes = layout.topology, list(tensors)
    for mode, matrix in zip(topology.output, matrices, strict=True):
        k = topology.nodes_of(mode)[0]
        at, axis = topology.parameters.index(k), topology.inputs[k].index(mode)
        nodes[at] = torch.tensordot(matrix, nodes[at], dims=([1], [axis])).movedim(0, axis).contiguous()
    return tuple(nodes)
