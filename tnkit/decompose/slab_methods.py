"""Trains and Tucker tensors of arrays that are read in slabs, within a limit of memory.

`slab_passes` reduces the array to a small one in memory; that is decomposed as any other, and the bases of the passes
become nodes of the result. The ranks of all bonds are then chosen together in the result itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.arrays import machine_eps
from tnkit.decompose.base import Fit, Problem, Target
from tnkit.decompose.bases import Labelled, Step, as_node
from tnkit.decompose.core_shape import Compressed, cheapest_core, turn_to_hosvd
from tnkit.decompose.hooi import HOOI
from tnkit.decompose.measure import BLOCK_ENTRIES, relative_error
from tnkit.decompose.nested import project_nested
from tnkit.decompose.rough import SMALL, Rough, budget_caps
from tnkit.decompose.slab_passes import Memory, Wanted, reduce_slabs
from tnkit.decompose.source_method import SourceFit, SourceMethod, SourceProblem
from tnkit.decompose.st_hosvd import corner
from tnkit.formats import Format, Tucker, TuckerSpec
from tnkit.formats.rank_plan import RankPlan, Truncated
from tnkit.formats.trees import tree_of
from tnkit.linalg import energy
from tnkit.network import Topology
from tnkit.registry import METHODS
from tnkit.sources.slabs import Slabs

__all__ = ["SlabTT", "SlabTucker", "slab_error"]

_TRIES = 4


@dataclass(frozen=True, slots=True)
class SlabTT(SourceMethod):
    """A tensor train within a limit of memory, from Gram matrices that are added up slab by slab.

    Example:
        >>> import numpy as np, tnkit as tk
        >>> i, j, k = np.ogrid[:30, :30, :30]
        >>> fit = tk.decompose(1.0 / (1 + i + j + k), "tt", eps=1e-3, memory_limit="150 kB")
        >>> fit.method, fit.rel_error <= 1e-3
        ('slab_tt', True)
    """

    name: ClassVar[str] = "slab_tt"
    formats: ClassVar[tuple[str, ...]] = ("tt",)
    needs: ClassVar[str] = "slabs"
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "TT-SVD of an array that is read in slabs, from Gram matrices that are added up"
    source: ClassVar[type[Slabs]] = Slabs

    def fit_source(self, problem: SourceProblem) -> SourceFit:
        """See `SourceMethod.fit_source`. Cost: two or three readings; one more that measures the error.

        Raises:
            MemoryLimitError: the limit is too small; the message says how much is needed.
            DataError: NaN or infinite values.
        """
        rough = _rough(problem, keep=(), thick=48)
        if rough.norm2 == 0.0:
            return _nothing(problem)
        layout, target = problem.layout, problem.target
        tree = tree_of(layout.topology)
        plan = RankPlan(
            tree,
            rough.nodes,
            layout.bonds,
            caps=problem.max_ranks,
            max_params=target.max_params,
            thorough=target.eps is not None,
        )
        if target.eps is None:
            return _measured(problem, rough, plan.best(None))
        budget = max(rough.error2 - rough.lost2, rough.floor2)
        for _ in range(_TRIES):
            found = plan.best(budget)
            fit = _measured(problem, rough, found)
            missed = (fit.fit.rel_error or 0.0) / target.eps if target.eps > 0 else 1.0
            if missed <= 1.0 or found.ranks == plan.caps or found.lost2 <= rough.floor2:
                break
            budget *= 0.9 / missed**2
        return fit


@dataclass(frozen=True, slots=True)
class SlabTucker(SourceMethod):
    """A Tucker tensor within a limit of memory, from Gram matrices that are added up slab by slab.

    Example:
        >>> import numpy as np, tnkit as tk
        >>> i, j, k = np.ogrid[:30, :30, :30]
        >>> fit = tk.decompose(1.0 / (1 + i + j + k), "tucker", eps=1e-3, memory_limit="150 kB")
        >>> fit.method, fit.rel_error <= 1e-3
        ('slab_tucker', True)
    """

    name: ClassVar[str] = "slab_tucker"
    formats: ClassVar[tuple[str, ...]] = ("tucker",)
    needs: ClassVar[str] = "slabs"
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "ST-HOSVD of an array that is read in slabs, from Gram matrices that are added up"
    source: ClassVar[type[Slabs]] = Slabs

    def fit_source(self, problem: SourceProblem) -> SourceFit:
        """See `SourceMethod.fit_source`. Cost: two or three readings.

        Raises:
            MemoryLimitError: the limit is too small; the message says how much is needed.
            DataError: NaN or infinite values.
        """
        rough = _rough(problem, keep=(0,), thick=1)
        if rough.norm2 == 0.0:
            return _nothing(problem)
        layout, target = problem.layout, problem.target
        core, *factors = rough.nodes
        whole = Compressed(core, factors, rough.lost2)
        if target.eps is None and target.max_params is None:
            return _answer(rough, _by_ranks(problem, whole))
        turned = turn_to_hosvd(whole)
        error2 = None if target.eps is None else rough.error2 - rough.lost2
        caps = tuple(min(pair) for pair in zip(problem.max_ranks, core.shape, strict=True))
        found = corner(turned, cheapest_core(turned.core, layout.shape, error2, target.max_params, caps))
        return _answer(rough, found)


@dataclass(frozen=True, slots=True, eq=False)
class _Rough:
    """The whole network at ranks that are larger than needed where that is cheap."""

    nodes: list[Tensor]
    steps: tuple[Step, ...]
    source: Slabs
    norm2: float
    lost2: float
    exact: bool  # lost2 is no bound, and lies at right angles to what is cut within the steps' bases
    error2: float  # what is allowed
    floor2: float  # what rounding leaves


def _rough(problem: SourceProblem, *, keep: Collection[int], thick: int) -> _Rough:
    source, layout, target = problem.source, problem.layout, problem.target
    assert isinstance(source, Slabs)
    caps = _generous(problem)
    wanted = Wanted(target.eps, dict(zip(layout.bonds, caps, strict=True)), keep, thick)
    reduced = reduce_slabs(source, layout, wanted)
    norm2 = reduced.norm2
    floor2 = (8 * machine_eps(source.dtype)) ** 2 * norm2
    error2 = 0.0 if target.eps is None else max(target.eps**2 * norm2 * (1 - 1e-6) - floor2, floor2)
    if norm2 == 0.0:
        return _Rough([], (), reduced.source, 0.0, 0.0, True, 0.0, 0.0)
    y, topology = reduced.y.tensor, layout.topology
    done = {step.node: step for step in reduced.steps}
    left = [node for node in range(len(topology.inputs)) if node not in done]
    small = Topology(tuple(topology.inputs[node] for node in left), reduced.y.labels)
    allowed = None if target.eps is None else max(error2 - reduced.lost2, floor2)
    rough = Rough(allowed, floor2, max(1, len(layout.bonds)), y.numel() <= SMALL, problem.rng)
    root = left.index(min(keep)) if keep else 0
    nested = project_nested(y, tree_of(small), wanted.caps, norm2 - reduced.lost2, problem.rng, root=root, rough=rough)
    found = dict(zip(left, nested.tensors, strict=True))
    tree = tree_of(topology)
    for node, step in done.items():
        found[node] = as_node(Labelled(step.basis, (*step.below, step.bond)), tree, node)
    nodes = [found[node] for node in range(len(found))]
    lost2 = reduced.lost2 + nested.lost2
    exact = reduced.exact and (bool(keep) or nested.lost2 <= 1e-5 * lost2 or nested.lost2 <= floor2)
    return _Rough(nodes, reduced.steps, reduced.source, norm2, lost2, exact, error2, floor2)


def _generous(problem: SourceProblem) -> tuple[int, ...]:
    """Ranks that no sensible result exceeds, with room for better ones to be found among more."""
    layout, target = problem.layout, problem.target
    caps = tuple(min(cap, r + 8 + r // 4) for cap, r in zip(layout.caps, problem.max_ranks, strict=True))
    if target.eps is None and target.max_params is not None and layout.dense_size > SMALL:
        return budget_caps(caps, target.max_params, layout.n_params)
    return caps


def _by_ranks(problem: SourceProblem, whole: Compressed) -> Compressed:
    """HOOI of the core: what it cuts lies inside of the factors' range, so the squared errors add up."""
    core = whole.core
    layout = TuckerSpec().layout(core.shape)
    norm = sqrt(energy(core))
    ranks = tuple(min(three) for three in zip(problem.max_ranks, core.shape, layout.caps, strict=True))
    inner = Problem(core, norm, layout, problem.spec, Target(ranks=ranks), problem.rng, problem.control)
    fit = HOOI().fit(inner)
    error = relative_error(core, layout.build(fit.tensors), norm=norm) if fit.rel_error is None else fit.rel_error
    small, *turns = fit.tensors
    factors = [f @ turn for f, turn in zip(whole.factors, turns, strict=True)]
    return Compressed(small, factors, whole.lost2 + (error * norm) ** 2)


def _answer(rough: _Rough, found: Compressed) -> SourceFit:
    """A Tucker tensor whose error is known; measured where the sum is at the edge of rounding."""
    tensors = (found.core.contiguous(), *(f.contiguous() for f in found.factors))
    if found.lost2 >= 100 * rough.floor2 and rough.exact:
        return _fit(rough, tensors, sqrt(found.lost2 / rough.norm2))
    error = slab_error(rough.source, Tucker.from_tensors(tensors), norm2=rough.norm2)
    return _fit(rough, tensors, error)


def _measured(problem: SourceProblem, rough: _Rough, found: Truncated) -> SourceFit:
    """A train with its error: from the energies where these add up exactly, else by another reading."""
    ranks = dict(zip(problem.layout.bonds, found.ranks, strict=True))
    sizes = {step.bond: step.rank for step in rough.steps}
    inside = {label for step in rough.steps for label in step.below if label in sizes}
    nests = all(ranks[label] == sizes[label] for label in inside)
    lost2 = rough.lost2 + found.lost2
    if nests and rough.exact and lost2 >= 100 * rough.floor2:
        return _fit(rough, found.tensors, sqrt(lost2 / rough.norm2))
    value = problem.layout.build(found.tensors)
    return _fit(rough, found.tensors, slab_error(rough.source, value, norm2=rough.norm2))


def _fit(rough: _Rough, tensors: Sequence[Tensor], error: float) -> SourceFit:
    first, *others = tensors
    return SourceFit(Fit((first / rough.source.factor, *others), error))


def _nothing(problem: SourceProblem) -> SourceFit:
    shapes = problem.layout.shapes((1,) * len(problem.layout.bonds))
    like = torch.empty(0, dtype=problem.source.dtype, device=problem.source.device)
    return SourceFit(Fit(tuple(like.new_zeros(shape) for shape in shapes), 0.0))


def slab_error(source: Slabs, value: Format, *, norm2: float | None = None) -> float:
    """‖x − x̂‖/‖x‖, in one reading.

    Args:
        source: the array.
        value: of the same shape.
        norm2: ‖x‖², if it is known.

    Example:
        >>> from tnkit.formats import random_format
        >>> tt = random_format("tt", (4, 5, 6), 2, rng=0)
        >>> slab_error(Slabs(tt.to_dense()), tt) < 1e-14
        True
    """
    memory = Memory(source.memory_limit, source.dtype.itemsize)
    lost2, total2 = 0.0, 0.0
    for where in source.boxes(min(memory.box, BLOCK_ENTRIES)):
        box = source.read(where)
        total2 += energy(box) if norm2 is None else 0.0
        uncut = all(part.stop - part.start == n for part, n in zip(where, source.shape, strict=True))
        part = value if uncut else value[where]
        lost2 += energy(part.to_dense().sub_(box))
    whole = total2 if norm2 is None else norm2
    return sqrt(lost2 / whole) if whole > 0 else (0.0 if lost2 == 0 else inf)


METHODS.register("slab_tt", SlabTT)
METHODS.register("slab_tucker", SlabTucker)
