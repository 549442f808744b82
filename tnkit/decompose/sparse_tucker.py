"""Tucker of a sparse array: bases of its unfoldings, then alternating sweeps; the dense array is never formed.

References: De Lathauwer, De Moor & Vandewalle 2000, doi:10.1137/S0895479898346995 (HOOI); Kolda & Sun 2008,
doi:10.1109/ICDM.2008.89, and Kaya & Uçar 2016, doi:10.1109/ICPP.2016.19 (sparse arrays).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, prod, sqrt
from typing import ClassVar

from torch import Tensor

from tnkit.decompose.core_shape import Compressed, cheapest_core, turn_to_hosvd
from tnkit.decompose.hooi import CoreSweeps, reduce_core
from tnkit.decompose.rough import SMALL, budget_caps
from tnkit.decompose.sparse_contract import SparseContraction, project_first, unfolding
from tnkit.decompose.sparse_method import Found, SparseMethod, SparseProblem
from tnkit.decompose.st_hosvd import corner
from tnkit.errors import OptionError
from tnkit.linalg import energy, leading_part, least_rank, require_room, split
from tnkit.linalg.block_sparse import POWER_STEPS
from tnkit.registry import METHODS
from tnkit.solvers import CONVERGED, Control, Outcome, iterate

__all__ = ["SparseTucker", "leading_bases"]

#: The share of the squared error that is allowed which the bases of all modes may lose before the core is cut.
SHARE = 0.3
#: Power steps for bases from which sweeps go on.
START_STEPS = 2
#: Machine epsilons of ‖x‖² by which a difference of energies may be wrong, and how many times that makes it certain.
ROUNDING, CERTAIN = 64 * 2.3e-16, 200.0


@dataclass(frozen=True, slots=True)
class SparseTucker(SparseMethod):
    """Higher-order orthogonal iteration for sparse arrays.

    By ranks: the leading bases of the unfoldings, then sweeps over the entries. With eps or a budget: bases that lose
    a part of what is allowed, the best core shape within them, and sweeps on the core.

    Attributes:
        max_steps: sweeps.
        tol: a sweep that lowers the error by less than this, relative to itself, is the last.

    Example:
        >>> import tnkit as tk
        >>> x = tk.SparseTensor([[0, 0, 9], [0, 1, 9], [7, 1, 3]], [1.0, 1.0, 2.0], shape=(10**4, 10**4, 10**4))
        >>> fit = tk.decompose(x, "tucker", eps=0.1)
        >>> fit.method, fit.ranks
        ('sparse_tucker', (2, 2, 2))
    """

    max_steps: int = 50
    tol: float = 1e-5
    name: ClassVar[str] = "sparse_tucker"
    formats: ClassVar[tuple[str, ...]] = ("tucker",)
    summary: ClassVar[str] = "HOOI on the coordinates of a sparse array, without making it dense"

    def __post_init__(self) -> None:
        """Refuse numbers out of range.

        Raises:
            OptionError: there are some.
        """
        if self.max_steps < 1 or self.tol < 0:
            raise OptionError(f"{self}: max_steps must be 1 or more, tol 0 or more.")

    def find(self, problem: SparseProblem) -> Found:
        """See `SparseMethod.find`. Cost: for each sweep d products of the entries with d − 1 factors."""
        target = problem.asked.target
        control = replace(problem.asked.control, max_steps=self.max_steps, tol=self.tol, patience=1)
        if target.eps is None and target.max_params is None:
            found, outcome = _at_ranks(problem, control)
        else:
            found, outcome = _within(problem, control)
        return Found((found.core, *found.factors), 1.01 * found.lost2, outcome.status, outcome.history)


def leading_bases(
    problem: SparseProblem, caps: Sequence[int], tail2: float | None, power_steps: int = POWER_STEPS
) -> tuple[list[Tensor], float]:
    """An orthonormal basis (n_k, r_k) for each mode, and the sum of the squared errors that each alone makes.

    Args:
        problem: the array.
        caps: the largest ranks.
        tail2: the squared error that each may make; None for the ranks themselves.
        power_steps: see `leading_part`.
    """
    bases, lost2 = [], 0.0
    for k, cap in enumerate(caps):
        part = leading_part(
            unfolding(problem.x, k),
            max_rank=cap,
            tail2=tail2,
            norm2=problem.norm**2,
            gen=problem.asked.rng,
            power_steps=power_steps,
        )
        bases.append(part.basis)
        lost2 += part.lost2 + part.noise2
    return bases, lost2


def _lost2(problem: SparseProblem, core: Tensor, bound2: float = inf) -> float:
    """‖x‖² − ‖core‖²; the bound where that is noise."""
    norm2 = problem.norm**2
    lost2 = norm2 - energy(core)
    return lost2 if lost2 >= CERTAIN * ROUNDING * norm2 else min(max(lost2, 0.0) + ROUNDING * norm2, bound2)


# --- ranks given ----------------------------------------------------------------------------------------------------


def _at_ranks(problem: SparseProblem, control: Control) -> tuple[Compressed, Outcome[Compressed]]:
    ranks = _possible(problem.x.shape, problem.asked.max_ranks)
    bases, bound2 = leading_bases(problem, ranks, None, power_steps=START_STEPS)
    contraction = SparseContraction(problem.x)
    require_room(ranks, problem.x.values, "The core of these ranks")
    core = contraction.core(bases)
    start = Compressed(core, bases, _lost2(problem, core, bound2))

    def step(state: Compressed, _: int) -> tuple[Compressed, float]:
        factors = list(state.factors)
        for k in range(len(factors)):
            part, others = contraction.all_but(k, factors)
            flat = part.reshape(part.shape[0], -1)
            factors[k] = split(flat, max_rank=min(ranks[k], *flat.shape), rng=problem.asked.rng).basis
        core = project_first(part, others, len(factors) - 1, factors[-1])
        lost2 = _lost2(problem, core)
        return Compressed(core, factors, lost2), sqrt(lost2) / problem.norm

    error = sqrt(start.lost2) / problem.norm
    if sum(n > 1 for n in problem.x.shape) < 2 or start.lost2 <= 2 * ROUNDING * problem.norm**2:
        return start, Outcome(start, error, (), CONVERGED)
    outcome = iterate(step, start, control, start_error=error)
    return outcome.value, outcome


def _possible(shape: Sequence[int], ranks: Sequence[int]) -> tuple[int, ...]:
    """Ranks that a core can use: none above its mode, or above the product of the others."""
    found = [min(r, n) for r, n in zip(ranks, shape, strict=True)]
    for _ in found:
        found = [min(r, prod(found[:k] + found[k + 1 :])) for k, r in enumerate(found)]
    return tuple(found)


# --- eps or a size --------------------------------------------------------------------------------------------------


def _within(problem: SparseProblem, control: Control) -> tuple[Compressed, Outcome[Compressed]]:
    """The cheapest core for the error, or the best one for the size, inside bases that lose little."""
    x, layout, target = problem.x, problem.asked.layout, problem.asked.target
    caps = tuple(min(cap, n) for cap, n in zip(problem.asked.max_ranks, x.shape, strict=True))
    allowed = problem.allowed2
    small = prod(x.shape) <= SMALL
    if allowed is None and not small:
        assert target.max_params is not None
        caps = budget_caps(caps, target.max_params, layout.n_params)
    tail2 = problem.floor2 if small or allowed is None else max(SHARE * allowed, problem.floor2)
    if not small:
        each = (unfolding(x, k) for k in range(x.ndim))
        least = [least_rank(a, tail2=allowed or tail2, norm2=problem.norm**2) for a in each]
        require_room(
            [min(r, cap) for r, cap in zip(least, caps, strict=True)], x.values, "The core that this eps needs"
        )
    bases, bound2 = leading_bases(problem, caps, tail2 / x.ndim)
    require_room([b.shape[1] for b in bases], x.values, "The core that this eps needs" if allowed else "The core")
    core = SparseContraction(x).core(bases)
    rough = Compressed(core, bases, _lost2(problem, core, bound2))
    turned = turn_to_hosvd(rough)
    left2 = None if allowed is None else allowed - rough.lost2
    ranks = cheapest_core(turned.core, layout.inner_shape, left2, target.max_params, tuple(core.shape))
    start = corner(turned, ranks)
    sweeps = CoreSweeps(rough.core, energy(rough.core), control)
    inner = [a.mH @ f for a, f in zip(rough.factors, start.factors, strict=True)]
    found, outcome = sweeps.improve(Compressed(start.core, inner, max(start.lost2 - rough.lost2, 0.0)))
    history = list(outcome.history)
    if left2 is not None:
        found, steps = reduce_core(sweeps, found, left2, layout.inner_shape)
        history += [replace(s, step=len(history) + k + 1) for k, s in enumerate(steps)]
    factors = [a @ f for a, f in zip(rough.factors, found.factors, strict=True)]
    whole = Compressed(found.core, factors, found.lost2 + rough.lost2)
    return whole, replace(outcome, value=whole, history=tuple(history))


METHODS.register(SparseTucker.name, SparseTucker)
