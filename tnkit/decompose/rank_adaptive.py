"""Rank-adaptive HOOI: Tucker with the fewest entries for an error; ranks fall, and are traded, between sweeps.

Xiao & Yang (arXiv:2110.12564) cut each factor, in its turn of a HOOI sweep, to the smallest rank that keeps the error.
The mode whose turn comes first spends all the slack there. Here the slack that a sweep gains is spent by all modes
together: the core is turned to its HOSVD, where one cumulative sum gives the error of every corner, and the corner with
the fewest entries of core and factors is kept. When sweeps gain no more, one rank is lowered, alone or against another
that is raised, and the sweeps that follow show whether the error comes back below what is allowed.

Example:
    >>> import torch, tnkit as tk
    >>> x = torch.rand(12, 13, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> direct = tk.decompose(x, "tucker", eps=0.3, method="st_hosvd")
    >>> adapted = tk.decompose(x, "tucker", eps=0.3, method="rank_adaptive_hooi")
    >>> adapted.rel_error <= 0.3 and adapted.n_params <= direct.n_params
    True
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.allowance import allowed2, known_error
from tnkit.decompose.base import Fit, Method, Problem
from tnkit.decompose.core_shape import Compressed, cheapest_core, turn_to_hosvd
from tnkit.decompose.hooi import HOOI, CoreSweeps, contract_mode
from tnkit.decompose.st_hosvd import compress_tucker, corner, fit_within
from tnkit.errors import OptionError
from tnkit.linalg import energy, split
from tnkit.registry import METHODS
from tnkit.solvers import CONVERGED, EPS_NOT_REACHED, MAX_STEPS, TIME_LIMIT, Control, Status, StepInfo

__all__ = ["RankAdaptiveHOOI", "adapt_ranks"]

#: Sweeps at a core shape before it is cut again, and those that a lowered rank gets to come back below the error.
SWEEPS, TRIAL_SWEEPS = 4, 40
#: A lowered rank that misses the allowed energy by more than this share of it is not worth a sweep; and after each one
#: it must lack at most so many times what that sweep gained.
HOPE, PATIENCE = 0.2, 50


@dataclass(frozen=True, slots=True)
class RankAdaptiveHOOI(Method):
    """Tucker for an error: HOOI sweeps that lower and trade ranks below those of ST-HOSVD, never above its size.

    Without an error there is nothing to adapt, and it is `HOOI` at the ranks or the size that are asked for.

    Attributes:
        max_steps: sweeps in all, those that trials of smaller ranks take included.
        tol: sweeps at one core shape end when the error falls by less than this, relative to itself.

    References:
        Xiao & Yang, arXiv:2110.12564.
    """

    max_steps: int = 80
    tol: float = 1e-4
    name: ClassVar[str] = "rank_adaptive_hooi"
    formats: ClassVar[tuple[str, ...]] = ("tucker",)
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "HOOI whose ranks fall and are traded while the error allows: fewer entries at equal eps"

    def __post_init__(self) -> None:
        """Refuse numbers out of range.

        Raises:
            OptionError: one is.
        """
        if self.max_steps < 1 or self.tol < 0:
            raise OptionError(f"{self}: max_steps must be 1 or more, tol 0 or more.")

    def fit(self, problem: Problem) -> Fit:
        """See `Method.fit`. Cost: as ST-HOSVD, and at most `max_steps` sweeps over the compressed array."""
        error2 = allowed2(problem)
        if error2 is None or (problem.x.requires_grad and torch.is_grad_enabled()):
            return HOOI(max_steps=self.max_steps).fit(problem)
        control = replace(problem.control, max_steps=self.max_steps, tol=self.tol)
        with torch.no_grad():
            rough = compress_tucker(problem)
            start = fit_within(problem, rough)
            inner = [a.mH @ f for a, f in zip(rough.factors, start.factors, strict=True)]
            found, status, history = adapt_ranks(
                rough.core,
                Compressed(start.core, inner, start.lost2 - rough.lost2),
                error2 - rough.lost2,
                problem.layout.inner_shape,
                control,
                caps=problem.max_ranks,
                max_params=problem.target.max_params,
            )
        factors = [(a @ f).contiguous() for a, f in zip(rough.factors, found.factors, strict=True)]
        lost2 = max(found.lost2 + rough.lost2, 0.0)
        eps = torch.finfo(problem.x.dtype).eps
        certain = lost2 > 2000 * eps * problem.norm**2 and not eps > 1e-10
        error = known_error(problem, lost2, certain)
        return Fit((found.core.contiguous(), *factors), error, status=status, history=history)


def adapt_ranks(
    core: Tensor,
    start: Compressed,
    error2: float,
    shape: Sequence[int],
    control: Control,
    *,
    caps: Sequence[int] | None = None,
    max_params: int | None = None,
) -> tuple[Compressed, Status, tuple[StepInfo, ...]]:
    """Lower and trade the ranks of a Tucker form of an array as long as an error allows.

    Args:
        core: the array; a compressed one (the core of a larger Tucker form) gives the same for less work.
        start: a Tucker form of it with orthonormal factors; its error may be above the one allowed.
        error2: the squared error that is allowed, of `core`.
        shape: of the array that the final factors belong to, for their sizes.
        control: `max_steps` sweeps in all; `tol`, a deadline and a `progress` as for `iterate`.
        caps: the largest ranks; those of `core` by default.
        max_params: entries of core and factors that are not to be passed.

    Returns:
        The Tucker form with the fewest entries that was found (of `core`; multiply its factors by the bases of the
        larger form), never more than `start` has if that keeps the error; how it ended; the sweeps, whose errors are
        relative to `core`. Where no sweep reaches the error, the best one and EPS_NOT_REACHED.

    Cost:
        for each sweep two products of `core` with a factor, about 4 r entries(core), and a HOSVD of the small core.
    """
    return _Adapting(core, error2, shape, control, caps or core.shape, max_params).run(start)


class _Adapting:
    """The sweeps, counted, with what is allowed."""

    def __init__(
        self,
        core: Tensor,
        error2: float,
        shape: Sequence[int],
        control: Control,
        caps: Sequence[int],
        max_params: int | None,
    ) -> None:
        self.core, self.error2, self.shape, self.control = core, error2, tuple(shape), control
        self.caps = tuple(min(c, n) for c, n in zip(caps, core.shape, strict=True))
        self.max_params = max_params
        self.norm2 = energy(core.reshape(1, -1))
        self.sweeps = CoreSweeps(core, self.norm2, control)
        self.history: list[StepInfo] = []
        self.floor = 10 * torch.finfo(core.dtype).eps * self.norm2  # energies below are rounding

    def run(self, start: Compressed) -> tuple[Compressed, Status, tuple[StepInfo, ...]]:
        best = start
        if self.norm2 == 0.0 or core_is_matrix(self.core):  # one ST-HOSVD is the best there
            return best, self.status(best), ()
        if best.lost2 > self.error2:
            best = self.swept(best, self.control.max_steps)
        best = self.cut(best)
        while not self.done and best.lost2 <= self.error2:
            gained = self.cut(self.swept(best, SWEEPS))
            if self.size(gained) < self.size(best):
                best = gained
                continue
            best = min(best, gained, key=lambda c: (c.lost2 > self.error2, self.size(c), c.lost2))
            smaller = self.traded(best)
            if smaller is None:
                break
            best = smaller
        return best, self.status(best), tuple(self.history)

    @property
    def done(self) -> bool:
        return len(self.history) >= self.control.max_steps or self.control.out_of_time

    def status(self, best: Compressed) -> Status:
        if best.lost2 > self.error2:
            return TIME_LIMIT if self.control.out_of_time else EPS_NOT_REACHED
        if self.control.out_of_time:
            return TIME_LIMIT
        return MAX_STEPS if self.done else CONVERGED

    def size(self, found: Compressed) -> int:
        return self.entries(found.core.shape)

    def entries(self, ranks: Sequence[int]) -> int:
        return prod(ranks) + sum(n * r for n, r in zip(self.shape, ranks, strict=True))

    def swept(self, state: Compressed, most: int) -> Compressed:
        """Sweeps at these ranks until they gain little; the last one, which is the best."""
        for _ in range(most):
            if self.done:
                break
            before = state.lost2
            new, error = self.sweeps.step(state, 0)
            self.history.append(StepInfo(len(self.history) + 1, error, 0.0))
            if self.control.progress is not None:
                self.control.progress(self.history[-1])
            if new.lost2 >= before - self.floor:
                break
            state = new
            if before - state.lost2 <= 2 * self.control.tol * before:
                break
        return state

    def cut(self, state: Compressed) -> Compressed:
        """The corner of the core with the fewest entries that keeps the error."""
        if state.lost2 > self.error2:
            return state
        turned = turn_to_hosvd(state)
        ranks = tuple(state.core.shape)
        chosen = cheapest_core(turned.core, self.shape, self.error2 - state.lost2, None, ranks)
        if chosen == ranks:
            return turned
        smaller = corner(turned, chosen)
        return smaller if smaller.lost2 <= self.error2 else turned

    # -- trades

    def traded(self, best: Compressed) -> Compressed | None:
        """A smaller form by one rank less, with or without one more in another mode, if sweeps bring its error back."""
        size = self.size(best)
        for guess in self.guesses(best, size):
            if self.done:
                return None
            found = guess
            for _ in range(TRIAL_SWEEPS):
                before = found.lost2
                found = self.swept(found, 1)
                left = before - found.lost2
                if found.lost2 <= self.error2 or left <= 0 or found.lost2 - self.error2 > PATIENCE * left:
                    break
            if found.lost2 <= self.error2:
                return self.cut(found)
        return None

    def guesses(self, best: Compressed, size: int) -> Iterator[Compressed]:
        """Smaller forms that miss the error by little, the most promising first."""
        ranks = tuple(best.core.shape)
        whole = prod(ranks)
        bases: dict[int | None, Compressed] = {None: best}
        for j, r in enumerate(ranks):
            if r < min(self.caps[j], whole // r):
                bases[j] = self.widened(best, j)
        options: list[tuple[float, int, int | None, tuple[int, ...]]] = []
        for wide, base in bases.items():
            for k, r in enumerate(ranks):
                for less in range(1, r):
                    smaller = tuple(
                        r - less if m == k else base.core.shape[m] if m == wide else ranks[m] for m in range(len(ranks))
                    )
                    if wide == k or self.entries(smaller) >= size:
                        continue
                    lost2 = corner(base, smaller).lost2
                    if lost2 <= self.error2 * (1 + HOPE) and _possible(smaller):
                        options.append((lost2, self.entries(smaller), wide, smaller))
                    break  # the least lowering that pays for the raise
        for _, _, chosen, smaller in sorted(options, key=lambda o: (o[0] > self.error2, o[0], o[1])):
            yield corner(bases[chosen], smaller)

    def widened(self, best: Compressed, mode: int) -> Compressed:
        """One rank more in a mode: the next singular vector of the array with the other modes contracted."""
        part = self.core
        for k, factor in enumerate(best.factors):
            if k != mode:
                part = contract_mode(part, k, factor)
        matrix = part.movedim(mode, 0).reshape(part.shape[mode], -1)
        factors = list(best.factors)
        factors[mode] = split(matrix, max_rank=best.core.shape[mode] + 1).basis
        core = contract_mode(part, mode, factors[mode])
        return turn_to_hosvd(Compressed(core, factors, max(self.norm2 - energy(core.reshape(1, -1)), 0.0)))


def core_is_matrix(core: Tensor) -> bool:
    """Whether at most two modes are larger than one."""
    return sum(n > 1 for n in core.shape) <= 2


def _possible(ranks: Sequence[int]) -> bool:
    """Whether no rank is above the product of the others."""
    whole = prod(ranks)
    return all(r * r <= whole for r in ranks)


METHODS.register(RankAdaptiveHOOI.name, RankAdaptiveHOOI)
