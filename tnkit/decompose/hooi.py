"""HOOI: alternating least squares for Tucker, with the partial products of a sweep shared by a dimension tree.

References: De Lathauwer, De Moor & Vandewalle 2000, doi:10.1137/S0895479898346995; Xiao & Yang, arXiv:2110.12564, for
ranks that adapt to an error; Phan, Tichavský & Cichocki 2013, doi:10.1109/TSP.2013.2269903, for the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.arrays import machine_eps
from tnkit.decompose.allowance import allowed2, known_error
from tnkit.decompose.base import Fit, Method, Problem
from tnkit.decompose.core_shape import Compressed, cheapest_core, turn_to_hosvd
from tnkit.decompose.st_hosvd import (
    STHOSVD,
    as_compressed,
    compress_tucker,
    corner,
    fit_by_ranks,
    fit_within,
    nested_by_ranks,
)
from tnkit.linalg import energy, split
from tnkit.registry import METHODS
from tnkit.solvers import CONVERGED, DIRECT, REACHED, Control, Outcome, StepInfo, iterate

__all__ = ["HOOI", "CoreSweeps", "reduce_core"]

_LARGE = 2**20  # entries from which the sweeps run in compressed coordinates
_CHEAP = 2**17  # entries up to which sweeps cost so little that no first one has to show their worth
_PROMISE = 0.2  # share of the allowed gap that a first sweep must gain for more of them
_REDUCTIONS = 12  # smaller core shapes that are tried
_QUICK = 4  # sweeps at each core shape where the choice of the method was automatic
_QUICK_FLOPS = 3e9  # for all of them, roughly
_CERTAIN = 2000  # times machine eps: the share of the energy above which differences of energies are certain


@dataclass(frozen=True, slots=True)
class HOOI(Method):
    """Higher-order orthogonal iteration from ST-HOSVD; never worse than its start.

    With eps the array is compressed first, the sweeps run on the compressed one, and the core shrinks while eps holds.

    Attributes:
        max_steps: sweeps.
        tol: a sweep that lowers the error by less than this, relative to itself, is the last.
        gap: no sweep where ST-HOSVD is proven to be within this, relatively, of the best error at these ranks. With
            eps, a gap above 0 keeps the sweeps few, and the work within a second or so.

    Example:
        >>> import torch, tnkit as tk
        >>> x = torch.arange(60.0).reshape(3, 4, 5).sin()
        >>> best = tk.decompose(x, "tucker", rank=1, method=tk.HOOI(max_steps=20)).rel_error
        >>> best <= tk.decompose(x, "tucker", rank=1, method="st_hosvd").rel_error
        True
    """

    max_steps: int = 50
    tol: float = 1e-6
    gap: float = 0.0
    name: ClassVar[str] = "hooi"
    formats: ClassVar[tuple[str, ...]] = ("tucker",)
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "HOOI from ST-HOSVD: alternating sweeps, a little better at equal ranks, and slower"

    @classmethod
    def automatic(cls) -> HOOI:
        """Sweeps only where they could gain five per cent."""
        return cls(gap=0.05)

    def fit(self, problem: Problem) -> Fit:
        """See `Method.fit`. Cost: for each sweep two products of the array (or of the compressed one) with a factor."""
        if problem.x.requires_grad and torch.is_grad_enabled():
            return STHOSVD().fit(problem)
        control = replace(problem.control, max_steps=self.max_steps, tol=self.tol, patience=1)
        with torch.no_grad():
            target = problem.target
            if target.eps is None and target.max_params is None:
                found, outcome, proven = _at_ranks(problem, control, self.gap)
            else:
                found, outcome = _within(problem, control, quick=self.gap > 0)
                proven = False
        tensors = (found.core.contiguous(), *(f.contiguous() for f in found.factors))
        eps = torch.finfo(problem.x.dtype).eps
        certain = proven or (found.lost2 > 2000 * eps * problem.norm**2 and not eps > 1e-10)
        return Fit(tensors, known_error(problem, found.lost2, certain), status=outcome.status, history=outcome.history)


def _at_ranks(problem: Problem, control: Control, gap: float) -> tuple[Compressed, Outcome[Compressed], bool]:
    """No sweeps where ST-HOSVD is proven good enough; else on the array, or on a large one in bases above the ranks.

    Sweeps in such bases cost nothing beside finding them. They hold the best subspaces but for what those gain from
    directions beyond the leading ones of every mode. Where a gap is allowed, one sweep on a large array shows first
    whether more are worth while.

    Returns:
        the result, how it came about, and whether its error is that of orthogonal projections, exactly.
    """
    ranks = problem.max_ranks
    done = nested_by_ranks(problem, ranks)
    start = as_compressed(done)
    if start.lost2 <= (1 + gap) ** 2 * done.least2:
        return start, Outcome(start, sqrt(start.lost2) / problem.norm, (), CONVERGED), done.certain
    if gap > 0 and problem.x.numel() > _CHEAP:
        first, outcome = CoreSweeps(problem.x, problem.norm**2, replace(control, max_steps=1, tol=0.0)).improve(start)
        if first.lost2 > (1 - _PROMISE * gap) ** 2 * start.lost2:
            return first, replace(outcome, status=CONVERGED), first is start and done.certain
        start = first
    generous = tuple(min(cap, r + r // 4 + 8) for r, cap in zip(ranks, problem.layout.caps, strict=True))
    if problem.x.numel() <= _LARGE or prod(generous) * 8 > problem.x.numel():
        return *CoreSweeps(problem.x, problem.norm**2, control).improve(start), False
    rough, _ = fit_by_ranks(problem, generous)
    start = corner(turn_to_hosvd(rough), ranks)
    return *_swept_inside(rough, start, control), False


def _swept_inside(rough: Compressed, start: Compressed, control: Control) -> tuple[Compressed, Outcome[Compressed]]:
    """Sweeps on the core of a compressed array, from a start in the array's own coordinates."""
    sweeps = CoreSweeps(rough.core, energy(rough.core.reshape(1, -1)), control)
    inner = [a.mH @ f for a, f in zip(rough.factors, start.factors, strict=True)]
    found, outcome = sweeps.improve(Compressed(start.core, inner, start.lost2 - rough.lost2))
    factors = [a @ f for a, f in zip(rough.factors, found.factors, strict=True)]
    whole = Compressed(found.core, factors, found.lost2 + rough.lost2)
    return whole, replace(outcome, value=whole)


def _within(problem: Problem, control: Control, *, quick: bool) -> tuple[Compressed, Outcome[Compressed]]:
    """Sweeps on the compressed array; with an error, smaller and smaller cores."""
    rough = compress_tucker(problem)
    start = fit_within(problem, rough)
    allowed = allowed2(problem)
    reductions = _REDUCTIONS
    if quick:
        control = replace(control, max_steps=min(control.max_steps, _QUICK), tol=max(control.tol, 1e-3))
        work = 4.0 * _QUICK * rough.core.numel() * max(start.core.shape)
        reductions = min(reductions, int(_QUICK_FLOPS / work))
        certain = _CERTAIN * machine_eps(problem.x.dtype) * problem.norm**2
        if allowed is None or start.lost2 > allowed or allowed < certain or reductions < 1:
            return start, Outcome(start, sqrt(max(start.lost2, 0.0)) / problem.norm, (), DIRECT)
    sweeps = CoreSweeps(rough.core, energy(rough.core.reshape(1, -1)), control)
    seen = Compressed(
        start.core, [a.mH @ f for a, f in zip(rough.factors, start.factors, strict=True)], start.lost2 - rough.lost2
    )
    found, outcome = sweeps.improve(seen)
    history = list(outcome.history)
    if allowed is not None:
        found, steps = reduce_core(sweeps, found, allowed - rough.lost2, problem.layout.inner_shape, reductions)
        history += [replace(s, step=len(history) + k + 1) for k, s in enumerate(steps)]
    factors = [a @ f for a, f in zip(rough.factors, found.factors, strict=True)]
    whole = Compressed(found.core, factors, found.lost2 + rough.lost2)
    reached = allowed is not None and whole.lost2 <= allowed and not sweeps.control.out_of_time
    return whole, replace(outcome, value=whole, history=tuple(history), status=REACHED if reached else outcome.status)


def reduce_core(
    sweeps: CoreSweeps, found: Compressed, error2: float, shape: Sequence[int], reductions: int = _REDUCTIONS
) -> tuple[Compressed, list[StepInfo]]:
    """Cut the core to cheaper corners, or lower one rank and sweep, while the error allows."""
    steps: list[StepInfo] = []
    failed: set[tuple[int, ...]] = set()
    for _ in range(reductions):
        if found.lost2 > error2 or sweeps.control.out_of_time:
            break
        turned = turn_to_hosvd(found)
        ranks = tuple(found.core.shape)
        cheaper = cheapest_core(turned.core, shape, error2 - found.lost2, None, ranks)
        options = [cheaper] if cheaper != ranks else []
        options += [(*ranks[:k], r - 1, *ranks[k + 1 :]) for k, r in enumerate(ranks) if r > 1]
        options = [o for o in options if o not in failed]
        losses = {o: corner(turned, o).lost2 for o in options}
        # a sweep gains little: a corner that loses far more than allowed is not worth trying
        options = [o for o in options if losses[o] <= 1.2 * error2]
        if not options:
            break
        choice = min(options, key=lambda o: (losses[o] > error2, -_saving(ranks, o, shape)))
        better, outcome = sweeps.improve(corner(turned, choice))
        steps += outcome.history
        if better.lost2 <= error2:
            found = better
        else:
            failed.add(choice)
    return found, steps


def _saving(ranks: tuple[int, ...], smaller: tuple[int, ...], shape: Sequence[int]) -> int:
    def cost(r: tuple[int, ...]) -> int:
        size = 1
        for k in r:
            size *= k
        return size + sum(n * k for n, k in zip(shape, r, strict=True))

    return cost(ranks) - cost(smaller)


class CoreSweeps:
    """HOOI on one array.

    Args:
        x: the array.
        norm2: ‖x‖².
        control: when to stop.
    """

    def __init__(self, x: Tensor, norm2: float, control: Control) -> None:
        self.x, self.norm2, self.control = x, norm2, control

    def improve(self, start: Compressed) -> tuple[Compressed, Outcome[Compressed]]:
        """Sweep until the error settles; the best of all sweeps and the start."""
        if self.x.ndim < 3 or self.norm2 == 0.0:  # ST-HOSVD is the best for matrices
            return start, iterate(lambda s, _: (s, 0.0), start, replace(self.control, max_steps=1, tol=0.0, target=0.0))
        scale = sqrt(self.norm2)
        outcome = iterate(self.step, start, self.control, start_error=sqrt(max(start.lost2, 0.0)) / scale)
        return outcome.value, outcome

    def step(self, state: Compressed, _: int) -> tuple[Compressed, float]:
        """One sweep: every factor in turn."""
        factors = list(state.factors)
        core = self.branch(self.x, list(range(self.x.ndim)), factors, state.core.shape)
        lost = max(self.norm2 - energy(core.reshape(1, -1)), 0.0)
        return Compressed(core, factors, lost), sqrt(lost / self.norm2)

    def branch(self, x: Tensor, modes: list[int], factors: list[Tensor], ranks: Sequence[int]) -> Tensor:
        """Update the factors of `modes` in an array whose other modes are contracted; give it with these contracted."""
        if len(modes) == 1:
            (k,) = modes
            matrix = x.movedim(k, 0).reshape(x.shape[k], -1)
            if ranks[k] < min(matrix.shape):
                factors[k] = split(matrix, max_rank=ranks[k]).basis
            return contract_mode(x, k, factors[k])
        half = (len(modes) + 1) // 2
        first, second = modes[:half], modes[half:]
        part = x
        for k in _most_reducing(second, x, ranks):
            part = contract_mode(part, k, factors[k])
        self.branch(part, first, factors, ranks)
        for k in _most_reducing(first, x, ranks):
            x = contract_mode(x, k, factors[k])
        return self.branch(x, second, factors, ranks)


def _most_reducing(modes: Sequence[int], x: Tensor, ranks: Sequence[int]) -> list[int]:
    """The modes in the order that makes the array smallest soonest; ties from the last, whose product is one GEMM."""
    return sorted(modes, key=lambda k: (ranks[k] / x.shape[k], -k))


def contract_mode(x: Tensor, mode: int, factor: Tensor) -> Tensor:
    """Replace a mode by its coordinates in the columns of a factor; no copy of `x` for any mode."""
    before, n = x.shape[:mode], x.shape[mode]
    after = x.shape[mode + 1 :]
    if mode == 0:
        flat = factor.mH @ x.reshape(n, -1)
    elif mode == x.ndim - 1:
        flat = x.reshape(-1, n) @ factor.conj()
    else:
        flat = factor.mH @ x.reshape(before.numel(), n, after.numel())
    return flat.reshape(*before, factor.shape[1], *after)


METHODS.register("hooi", HOOI)
