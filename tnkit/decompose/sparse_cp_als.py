"""CP of a sparse array by alternating least squares on its coordinates.

References: Bader & Kolda 2007, doi:10.1137/060676489 (sparse products); Ang et al., doi:10.1137/19M1288395
(extrapolation); Bro & Andersson, doi:10.1016/S0169-7439(98)00011-2 (a start from a Tucker core).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.base import Problem, Target
from tnkit.decompose.cp_als import CPALS
from tnkit.decompose.descent import Start, Trial, descend, descend_from, ended
from tnkit.decompose.mttkrp import balanced, normalised
from tnkit.decompose.sparse_contract import SparseContraction, unfolding
from tnkit.decompose.sparse_method import Found, SparseMethod, SparseProblem
from tnkit.decompose.sparse_mttkrp import SparseCP
from tnkit.decompose.sparse_tucker import leading_bases
from tnkit.errors import OptionError
from tnkit.formats import CPSpec
from tnkit.linalg import add_rows_, columns_of, energy, group_rows, leading_part, rank_for_tail, require_room
from tnkit.registry import METHODS
from tnkit.rng import normal
from tnkit.solvers import DIRECT, EPS_NOT_REACHED, Control

__all__ = ["SparseCPALS"]

#: A start from a Tucker core is made up to so many entries of the core, and operations on the coordinates.
CORE, CORE_WORK = 2**18, 4e9
#: By how much ranks grow from one attempt to the next, and the steps and tolerance of an attempt.
GROWTH, QUICK_STEPS, QUICK_TOL = 1.35, 60, 1e-3


@dataclass(frozen=True, slots=True)
class SparseCPALS(SparseMethod):
    """Alternating least squares for CP on the coordinates of a sparse array, with extrapolated sweeps.

    The first start is the fit of a Tucker core of the array, where that is small; others are random. Arrays with two
    modes above 1 are done directly. By eps the rank grows until it is reached, and is then halved back; one term for
    each of the largest fibres is the alternative.

    Attributes:
        max_steps: sweeps for each start.
        tol: stop when the error falls by less than this, relative to itself, over five steps.
        starts: random starts.
        start: "auto" (a Tucker core, then random ones) or "random".
        ridge: pull towards the old factor, as a share of the mean eigenvalue of its normal matrix.

    Example:
        >>> import tnkit as tk
        >>> x = tk.SparseTensor([[0, 0, 9], [0, 1, 9], [7, 1, 3]], [1.0, 1.0, 2.0], shape=(10**5, 10**4, 10**3))
        >>> fit = tk.decompose(x, "cp", rank=2)
        >>> fit.method, fit.rel_error < 1e-6
        ('sparse_cp_als', True)
    """

    max_steps: int = 200
    tol: float = 1e-5
    starts: int = 2
    start: str = "auto"
    ridge: float = 0.0
    name: ClassVar[str] = "sparse_cp_als"
    formats: ClassVar[tuple[str, ...]] = ("cp",)
    summary: ClassVar[str] = "alternating least squares for CP on the coordinates of a sparse array"

    def __post_init__(self) -> None:
        """Refuse an unknown start, or numbers out of range.

        Raises:
            OptionError: there are some.
        """
        if self.start not in ("auto", "random"):
            raise OptionError(f"SparseCPALS(start={self.start!r}) is unknown. Use 'auto' or 'random'.")
        if self.max_steps < 1 or self.starts < 0 or self.tol < 0 or self.ridge < 0:
            raise OptionError(f"{self}: max_steps must be 1 or more, starts, tol and ridge 0 or more.")

    def find(self, problem: SparseProblem) -> Found:
        """See `SparseMethod.find`. Cost: for each sweep d (d − 1) nnz r products at the most."""
        target, layout = problem.asked.target, problem.asked.layout
        most = problem.asked.max_ranks[0]
        if target.max_params is not None:
            most = min(most, target.max_params // layout.n_params((1,)))
        if sum(n > 1 for n in problem.x.shape) <= 2:
            return _matrix(problem, most)
        fits = _Fits(self, problem)
        if target.eps is not None:
            return fits.within(most, target.eps)
        fibres = fits.fibres
        if most >= fibres.count:
            return Found(fibres.terms(fibres.count), 0.0)
        return fits.found(fits.at(most, None, None))


class _Fits:
    """Fits of one array at several ranks."""

    def __init__(self, method: SparseCPALS, problem: SparseProblem) -> None:
        self.method, self.problem, self.x = method, problem, problem.x
        self.terms = SparseCP(problem.x, problem.norm)
        self.fibres = _Fibres(problem)

    def found(self, trial: Trial) -> Found:
        """Weights and factors with columns of norm one, the largest weight first."""
        weights, *factors = trial.tensors
        first, *units = normalised((factors[0] * weights, *factors[1:]))
        order = torch.argsort(first.abs(), descending=True, stable=True)
        return Found((first[order], *(u[:, order] for u in units)), status=trial.status, history=trial.history)

    def at(self, rank: int, goal: float | None, start: Sequence[Tensor] | None, *, quick: bool = False) -> Trial:
        """The best of several starts at a rank."""
        method = self.method
        require_room((sum(self.problem.asked.layout.shape), rank), self.x.values, "CP factors of this rank")
        steps, tol = (method.max_steps, method.tol) if not quick else (QUICK_STEPS, max(QUICK_TOL, method.tol))
        control = replace(self.problem.asked.control, max_steps=min(steps, method.max_steps), tol=tol, target=goal)
        if start is not None:
            return descend(self.terms, start, control, ridge=method.ridge, newton=0)
        pool: list[Start] = []
        if method.start == "auto":
            made = self.from_core(rank, control, quick=quick)
            pool += [] if made is None else [made]
        count = 0 if quick and pool else max(method.starts, 0 if pool else 1)
        pool += [self.random(rank) for _ in range(count)]
        return descend_from(self.terms, pool, control, ridge=method.ridge, newton=0)

    def random(self, rank: int) -> Sequence[Tensor]:
        """Normal factors of about the array's norm."""
        shape, like = self.x.shape, self.x.values
        scale = (self.problem.norm / (prod(float(n) for n in shape) * rank) ** 0.5) ** (1.0 / len(shape))
        return (like.new_ones(rank), *(normal((n, rank), like, self.problem.asked.rng) * scale for n in shape))

    def from_core(self, rank: int, control: Control, *, quick: bool) -> tuple[Tensor, ...] | None:
        """The CP fit of a Tucker core with a little more than the rank in each mode; None if that is no small thing."""
        sizes = [min(n, rank + 4 + rank // 4) for n in self.x.shape]
        work = self.x.nnz * prod(float(n) for n in sizes) / max(sizes)
        if prod(sizes) > CORE or work > CORE_WORK:
            return None
        bases, _ = leading_bases(self.problem, sizes, None, power_steps=1)
        core = SparseContraction(self.x).core(bases)
        asked, spec = self.problem.asked, CPSpec()
        norm = sqrt(energy(core))
        if norm == 0.0:
            return None
        small = Problem(core, norm, spec.layout(tuple(core.shape)), spec, Target((rank,)), asked.rng, asked.control)
        inner = CPALS(max_steps=control.max_steps, tol=control.tol, starts=self.method.starts, ridge=self.method.ridge)
        weights, *factors = inner.solve(small, (rank,), None, None, quick=quick).tensors
        outer = [b @ f for b, f in zip(bases, factors, strict=True)]
        return balanced((outer[0] * weights, *outer[1:]))

    # -- eps

    def within(self, most: int, eps: float) -> Found:
        """Ranks grow until eps is reached; then the smallest between the last two; or the largest fibres."""
        problem = self.problem
        assert problem.allowed2 is not None
        goal = sqrt(problem.allowed2) / problem.norm * (1 - 1e-6)
        plain = self.fibres.rank_for(problem.allowed2)
        limit, rank, low = min(most, plain - 1), 1, 0
        if plain <= most:  # beyond the size of the coordinates themselves the fibres are the better answer
            limit = min(limit, max(1, self.x.nnz * (self.x.ndim + 1) // (1 + sum(self.x.shape))))
        best: Trial | None = None
        while rank <= limit:
            trial = self.at(rank, goal, None, quick=True)
            if best is None or trial.error < best.error:
                best = trial
            if trial.error <= goal or ended(trial.status) or rank == limit:
                break
            low, rank = rank, min(limit, max(rank + 1, int(rank * GROWTH)))
        if best is None or best.error > goal:
            if plain <= most:
                return Found(self.fibres.terms(plain), self.fibres.tail2(plain))
            assert best is not None
            status = best.status if ended(best.status) else EPS_NOT_REACHED
            return self.found(replace(best, status=status))
        high = int(best.tensors[0].shape[0])
        while high - low > 1 and not problem.asked.control.out_of_time:
            middle = (low + high) // 2
            trial = self.at(middle, goal, None, quick=True)
            if trial.error <= goal:
                best, high = trial, middle
            else:
                low = middle
        return self.found(best)


class _Fibres:
    """One term for each fibre of the largest mode: exact, but not small."""

    def __init__(self, problem: SparseProblem) -> None:
        x, self.whole = problem.x, problem.asked.layout.shape
        self.x, self.mode = x, max(range(x.ndim), key=lambda k: x.shape[k])
        self.others = [k for k in range(x.ndim) if k != self.mode]
        self.groups = group_rows(columns_of(x.indices, self.others), [x.shape[k] for k in self.others])
        self.count = self.groups.count
        energies = torch.zeros(self.count, dtype=torch.float64, device=x.device)
        add_rows_(energies, self.groups.target, x.values[self.groups.order].abs().square())
        self.energies, self.order = torch.sort(energies, descending=True, stable=True)

    def rank_for(self, allowed2: float) -> int:
        """How many of the largest leave at most this energy."""
        return rank_for_tail(self.energies, allowed2)

    def tail2(self, rank: int) -> float:
        """The energy of the others."""
        return float(self.energies[rank:].sum())

    def terms(self, rank: int) -> tuple[Tensor, ...]:
        """Weights and factors of the largest."""
        x, groups = self.x, self.groups
        require_room((sum(self.whole), rank), x.values, "CP with one term for each fibre")
        place = torch.full((self.count,), rank, dtype=torch.int64, device=x.device)
        place[self.order[:rank]] = torch.arange(rank, device=x.device)
        term = place[groups.target]
        kept = term < rank
        entry = groups.order[kept]
        factors: dict[int, Tensor] = {}
        fibres = x.values.new_zeros((x.shape[self.mode], rank))
        fibres[x.indices[entry, self.mode], term[kept]] = x.values[entry]
        factors[self.mode] = fibres
        rows = groups.rows[self.order[:rank]]
        for j, k in enumerate(self.others):
            unit = x.values.new_zeros((x.shape[k], rank))
            factors[k] = unit.scatter_(0, rows[None, :, j], 1.0)
        return normalised([factors[k] for k in range(x.ndim)])


def _matrix(problem: SparseProblem, most: int) -> Found:
    """The truncated SVD of an array with at most two modes above 1."""
    x = problem.x
    modes = [k for k, n in enumerate(x.shape) if n > 1]
    first = modes[0] if modes else 0
    allowed2 = problem.allowed2
    part = leading_part(
        unfolding(x, first), max_rank=most, tail2=allowed2, norm2=problem.norm**2, gen=problem.asked.rng
    )
    ones = x.values.new_ones((1, part.basis.shape[1]))
    factors = [part.basis if k == first else ones for k in range(x.ndim)]
    if len(modes) > 1:
        factors[modes[1]] = part.rest.mT
    else:
        factors[first] = factors[first] * part.rest[:, 0]
    weights, *units = normalised(factors)
    order = torch.argsort(weights.abs(), descending=True, stable=True)
    return Found((weights[order], *(u[:, order] for u in units)), part.lost2 + part.noise2, DIRECT)


METHODS.register(SparseCPALS.name, SparseCPALS)
