"""Fit a large array in the leading basis of each of its modes first, where every step is cheap; polish on the array.

Reference: Bro & Andersson, doi:10.1016/S0169-7439(98)00011-2, for CP; here for any network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import TypeAlias

import torch
from torch import Tensor

from tnkit.decompose.base import Problem
from tnkit.decompose.descent import Trial, ended
from tnkit.formats import Layout
from tnkit.linalg import energy, sketched_range, split
from tnkit.linalg.products import project
from tnkit.solvers import Control

__all__ = ["Compressed", "compress_for_error", "compress_for_ranks", "fit_compressed", "smaller"]

#: Arrays of more entries are compressed, if that makes them so many times smaller.
LARGE, SMALLER = 2**17, 6

#: For a whole search the basis may lose this share of the error that is allowed.
SHARE = 0.3
#: After a compressed fit, sweeps on the array go on as long as they gain so many times the tolerance.
POLISH = 10.0

#: How many of the steps, at the most, and which share of them is kept for the array. The first of them gains what the
#: bases miss; from then on a step gains no more than one on the core, and costs much more.
POLISH_STEPS, POLISH_SHARE = 1, 5

Solve: TypeAlias = "Callable[[Problem, Sequence[Tensor] | None, Control], Trial]"


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """An array in a basis for each mode.

    Attributes:
        problem: the core in place of the array; its layout has the core's shape.
        layout: the layout before.
        bases: (n_k, m_k) with orthonormal columns.
        lost2: the squared norm of what the bases miss.
        norm: of the array.
    """

    problem: Problem
    layout: Layout
    bases: tuple[Tensor, ...]
    lost2: float
    norm: float

    def goal(self, goal: float) -> float:
        """The relative error of the core that gives this relative error of the array; 0 if none does."""
        left2 = (goal * self.norm) ** 2 - self.lost2
        return sqrt(left2) / self.problem.norm if left2 > 0 else 0.0

    def inside(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Tensors for the array, projected on the bases."""
        return _turned(self.layout, [b.mH for b in self.bases], tensors)

    def outside(self, trial: Trial) -> Trial:
        """A fit of the core as one of the array: ‖x − x̂‖² is what the bases miss and what the core's fit does."""

        def whole(error: float) -> float:
            return sqrt(self.lost2 + (error * self.problem.norm) ** 2) / self.norm

        return replace(
            trial,
            tensors=_turned(self.layout, self.bases, trial.tensors),
            error=whole(trial.error),
            history=tuple(replace(info, error=whole(info.error)) for info in trial.history),
        )


def compress_for_ranks(problem: Problem, ranks: Sequence[int]) -> Compressed | None:
    """The leading basis of each mode, a little larger than the bonds of its node together; None if that is no gain."""
    sizes = _basis_sizes(problem.layout, ranks)
    if sizes is None or problem.x.numel() <= LARGE or prod(sizes) * SMALLER > problem.x.numel():
        return None
    return _compressed(problem, sizes, None)


def compress_for_error(problem: Problem, goal: float, *, least: int = LARGE) -> Compressed | None:
    """Bases that miss a small share of a relative error; None if that is no gain, or the array has `least` or less."""
    sizes = _basis_sizes(problem.layout, problem.layout.caps)
    if sizes is None or problem.x.numel() <= least:
        return None
    found = _compressed(problem, problem.x.shape, (SHARE * goal * problem.norm) ** 2)
    return found if found.problem.x.numel() * 2 <= problem.x.numel() else None


def _compressed(problem: Problem, sizes: Sequence[int], allowed: float | None) -> Compressed:
    """Bases truncated one after the other (Vannieuwenhoven et al., doi:10.1137/110836067), the largest mode first."""
    bases: dict[int, Tensor] = {}
    core, kept2 = problem.x, problem.norm**2
    order = sorted(range(core.ndim), key=lambda k: -core.shape[k])
    for k in order:
        unfolded = core.movedim(k, 0).reshape(core.shape[k], -1)
        size = min(sizes[k], *unfolded.shape)
        seen = None
        if allowed is None:
            seen = sketched_range(unfolded, size, kept2, problem.rng, checked=False)
        if seen is not None:  # a few directions more than are needed: which ones exactly does not matter
            bases[k] = torch.linalg.qr(seen.weighted).Q
            flat = project(bases[k], unfolded)
            kept2 = energy(flat)
        else:
            tail2 = None if allowed is None else allowed / core.ndim
            part = split(unfolded, max_rank=size, tail2=tail2, norm2=kept2, rng=problem.rng)
            bases[k], flat = part.basis, part.rest
            kept2 = max(kept2 - part.discarded2, 0.0)
        rest = [n for j, n in enumerate(core.shape) if j != k]
        core = flat.reshape(-1, *rest).movedim(0, k)
    core = core.contiguous()
    norm = sqrt(energy(core))
    small = replace(problem, x=core, norm=norm, layout=smaller(problem.layout, core.shape))
    lost2 = max(0.0, problem.norm**2 - norm**2)
    return Compressed(small, problem.layout, tuple(bases[k] for k in range(core.ndim)), lost2, problem.norm)


def fit_compressed(
    problem: Problem,
    ranks: Sequence[int],
    start: Sequence[Tensor] | None,
    control: Control,
    solve: Solve,
    polish: Callable[[Trial, Control], Trial],
) -> Trial | None:
    """The fit of the Tucker core, its tensors multiplied by the bases, and then steps on the array itself.

    Args:
        problem: of any topology each of whose modes is on one node.
        ranks: one a bond.
        start: tensors to begin with.
        control: when to stop; steps on the core and on the array are counted together.
        solve: the fit, for a smaller problem, a start and a control for it.
        polish: goes on from a trial on the array.

    Returns:
        Tensors for the array with their relative error to it, or None if the array is small, or hardly gets smaller so.
    """
    found = compress_for_ranks(problem, ranks)
    if found is None:
        return None
    kept = min(POLISH_STEPS, control.max_steps // POLISH_SHARE)
    goal = None if control.target is None else found.goal(control.target)
    limits = replace(control, max_steps=control.max_steps - kept, target=goal)
    rough = found.outside(solve(found.problem, None if start is None else found.inside(start), limits))
    if ended(rough.status):
        return rough
    return polish(rough, replace(control, tol=POLISH * control.tol))


def _basis_sizes(layout: Layout, ranks: Sequence[int]) -> tuple[int, ...] | None:
    topology, sizes = layout.topology, layout.label_sizes(ranks)
    found = []
    for mode in topology.output:
        holders = topology.nodes_of(mode)
        if len(holders) != 1 or topology.constants[holders[0]] is not None:
            return None
        bonds = prod(sizes[label] for label in topology.inputs[holders[0]] if label not in topology.output)
        found.append(min(sizes[mode], bonds + 5 + bonds // 8))
    return tuple(found)


def smaller(layout: Layout, shape: Sequence[int]) -> Layout:
    """The layout with other sizes of its modes."""
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
