"""CP at very many coordinates: subspaces from pairs of entries, a core, then least squares in little memory.

At random starts alternating least squares fails where few of the entries are observed: the first sweeps see noise only.
Here the start is spectral (`tnkit.completion.pair_spectra`), which needs about √(n_1 … n_d) times a small factor of
entries; a core in the subspaces (`tnkit.completion.core_start`) tells the rank and gives the factors, and least squares
on all entries does the rest:

    a_i ← (Σ_e h_e h_eᵀ + σ²/τ²)⁻¹ Σ_e y_e h_e,

where σ² is what is left of the entries and τ² the mean square of each column: the posterior mean under the prior that
the rows of a factor share (so that terms that are not needed shrink to nothing). Memory is that of the entries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite, prod, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, own_layout, register
from tnkit.completion.core_start import cp_of_core, fit_core
from tnkit.completion.cp_entries import CPEntries
from tnkit.completion.factor_descent import root_mean_square
from tnkit.completion.observations import Observations
from tnkit.completion.pair_spectra import clipped, leading, subspaces
from tnkit.errors import OptionError
from tnkit.formats import Layout
from tnkit.rng import normal
from tnkit.solvers import CONVERGED, INTERRUPTED, REACHED, TIME_LIMIT, Status, StepInfo, iterate

__all__ = ["CoordinateCP"]

Factors = tuple[Tensor, ...]
#: Entries that are held out at the most.
HELD = 200_000
#: Numbers of the widest projection and of the largest core.
WIDEST, CORE = 1024, 4096
#: Of more entries than this there is one random start: it tells hardly ever what pairs did not.
MANY = 500_000
#: A start that leaves more of the held-out entries than this tells nothing.
NOTHING = 0.97

#: Terms that are tried where no rank is given.
RANKS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)


@register
@dataclass(frozen=True, slots=True)
class CoordinateCP(CompletionMethod):
    """CP of millions of coordinates: a spectral start, then least squares in memory of the order of the entries.

    Attributes:
        max_steps: sweeps at the most.
        tol: it ends when the held-out error has fallen by less than this, relative to itself, over `patience` sweeps.
        patience: over how many sweeps.
        holdout: share of the entries held out (200 000 at the most), and given back for the last sweeps.
        rounds: of the projections that refine the subspaces.
        starts: random starts where the spectral one tells nothing, or for complex values.
        max_rank: terms that are tried at the most where no rank is given; up to 16.

    Where nothing is learnt of the held-out entries the status says so ("nothing_found").

    Cost: 2 N r (r + d) multiplications a sweep and mode; about 120 bytes an entry beside those of the `Observations`.

    Raises:
        OptionError: a format that is not CP, steps, rounds or starts below 1, or shares outside their ranges.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import Observations, complete
        >>> rng = np.random.default_rng(0)
        >>> a, b, c = (rng.normal(size=(n, 2)) for n in (200, 100, 50))
        >>> at = np.stack([rng.integers(n, size=40_000) for n in (200, 100, 50)], 1)
        >>> y = (a[at[:, 0]] * b[at[:, 1]] * c[at[:, 2]]).sum(1)
        >>> done = complete(Observations(at, y, (200, 100, 50)), "cp", rank=2, method="coordinates")
        >>> done.train_error < 1e-3
        True
    """

    max_steps: int = 60
    tol: float = 2e-3
    patience: int = 3
    holdout: float = 0.05
    rounds: int = 3
    starts: int = 3
    max_rank: int = 16
    name: ClassVar[str] = "coordinates"
    only: ClassVar[str] = "cp"
    summary: ClassVar[str] = "CP of tens of millions of coordinates: spectral start, least squares in little memory"

    def __post_init__(self) -> None:
        whole = min(self.max_steps, self.patience, self.rounds, self.starts) >= 1 and 1 <= self.max_rank <= 16
        if not whole or not (0 < self.holdout < 1 and self.tol >= 0):
            raise OptionError(
                f"{self!r}: max_steps, patience, rounds and starts must be 1 or more, max_rank 1 to 16, "
                "holdout above 0 and below 1, tol at least 0."
            )

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class."""
        layout = own_layout(self, problem)
        obs = problem.observations
        run = _Run(self, problem, layout)
        if run.scale == 0:
            zeros = tuple(obs.values.new_zeros(s) for s in layout.shapes(problem.ranks or (1,)))
            return CompletionFit(zeros, None, 0.0, 0.0, CONVERGED)
        try:
            run.search()
            run.refit()
        except KeyboardInterrupt:
            run.status = INTERRUPTED
        return run.result()


class _Run:
    """One completion in progress: what is best so far survives an interruption."""

    def __init__(self, method: CoordinateCP, problem: CompletionProblem, layout: Layout) -> None:
        self.method, self.problem, self.layout = method, problem, layout
        obs = problem.observations
        self.scale = root_mean_square(obs)
        self.factors: Factors | None = None
        self.heldout, self.status = inf, CONVERGED
        self.history: list[StepInfo] = []
        self.rank = 0 if problem.ranks is None else problem.ranks[0]
        if self.scale:
            chosen = _held(obs, method.holdout, problem.rng)
            self.held = None if chosen is None else self.entries(obs, chosen, sort=False)
            self.train = self.entries(obs, None if chosen is None else ~chosen, sort=True)

    def entries(self, obs: Observations, picks: Tensor | None, sort: bool) -> CPEntries:
        """Some of the entries, of mean square 1."""
        indices, values, weights = obs.indices, obs.values, obs.weights
        if picks is not None:
            indices, values = indices[picks], values[picks]
            weights = None if weights is None else weights[picks]
        return CPEntries.of(indices, values / self.scale, obs.shape, weights, sort)

    def error(self, factors: Factors, entries: CPEntries) -> float:
        """Relative error at some entries."""
        return sqrt(entries.error2(factors) / max(entries.norm2, 1e-30))

    # --- starts ------------------------------------------------------------------------------------------------------

    def search(self) -> None:
        """The best factors by the held-out entries."""
        first = None if self.train.values.is_complex() or self.train.values.ndim == 0 else self.spectral()
        if first is not None:
            self.descend(first)
        rank = max(1, self.rank)
        for _ in range(self.method.starts if self.train.n < MANY else 1):
            if self.heldout < NOTHING or self.problem.control.out_of_time or self.status in (INTERRUPTED, TIME_LIMIT):
                return
            self.descend(
                tuple(normal((n, rank), self.train.values, self.problem.rng) / rank**0.5 for n in self.train.shape)
            )

    def spectral(self) -> Factors | None:
        """Factors from subspaces; None where they would be too wide, or tell nothing of the held-out entries."""
        d, most = len(self.train.shape), self.rank or self.method.max_rank
        if d < 2:
            return None
        widest = int(WIDEST ** (1 / (d - 1)) + 1e-9)
        if self.rank > widest:
            return None
        q = min(widest, max(2 * self.rank, 4) if self.rank else most)
        out_of_time = self._out_of_time
        bases = subspaces(self.train, q, self.method.rounds, self.problem.rng, out_of_time)
        if out_of_time():
            return None
        inner = min(int(CORE ** (1 / d) + 1e-9), self.rank or most)
        if inner < self.rank:
            inner = self.rank
        for mode in sorted(range(d), key=lambda k: -self.train.shape[k]):
            if inner < q:
                bases[mode] = leading(self.train.project(bases, mode, clipped(self.train)), q)
        bases = [b[:, :inner] for b in bases]
        core = fit_core(self.train, bases, self.problem.rng)
        found: Factors | None = None
        least, misses = NOTHING, 0
        for rank in (self.rank,) if self.rank else [r for r in RANKS if r <= min(most, inner)]:
            factors = tuple(f.to(self.train.values.dtype) for f in cp_of_core(core, bases, rank, self.problem.rng))
            error = inf if self.held is None else self.error(factors, self.held)
            if self.held is None or error < 0.98 * least or (self.rank and error < 2):
                found, least, misses = factors, error, 0
            else:
                misses += 1
            if misses >= 2 or out_of_time():
                break
        if found is not None:
            self.rank = found[0].shape[1]
        return found

    def _out_of_time(self) -> bool:
        return self.problem.control.out_of_time

    # --- least squares -----------------------------------------------------------------------------------------------

    def descend(self, start: Factors) -> None:
        """Sweeps from a start; what is best is kept."""
        if self.factors is None:
            self.factors = start  # something is there if time ends in the first sweep
        control = replace(
            self.problem.control,
            max_steps=self.method.max_steps,
            tol=self.method.tol,
            patience=self.method.patience,
            target=1e-12,
            progress=self._hear,
        )
        noise = min(1.0, self.error(start, self.train) ** 2)
        state: tuple[Factors, float] = (start, noise)
        found = iterate(lambda s, _: self.sweep(*s, self.train, self.held), state, control)
        if found.error < self.heldout and isfinite(found.error):
            self.factors, self.heldout = found.value[0], found.error
        self.status = CONVERGED if found.status is REACHED else found.status
        if found.status is INTERRUPTED:
            raise KeyboardInterrupt

    def sweep(
        self, factors: Factors, noise: float, train: CPEntries, held: CPEntries | None
    ) -> tuple[tuple[Factors, float], float]:
        """Each mode once, the longest first; the new factors, σ², and the error that counts."""
        now = list(factors)
        for mode in sorted(range(len(now)), key=lambda k: -train.shape[k]):
            lengths = [f.abs().square().mean(0).sqrt().clamp_min(1e-30) for f in now]
            spread = torch.ones_like(lengths[0])
            for k, length in enumerate(lengths):
                spread = spread * length
                if k != mode:
                    now[k] = now[k] / length
            prior = spread.square().clamp_min(1e-10)
            now[mode] = train.solve(now, mode, noise / prior)
        train2 = train.error2(now)
        after = min(1.0, train2 / max(train.norm2, 1e-30))
        error = self.error(tuple(now), held) if held is not None else sqrt(train2 / max(train.norm2, 1e-30))
        return (tuple(now), after), error

    def _hear(self, info: StepInfo) -> None:
        self.history.append(replace(info, step=len(self.history) + 1))
        if self.problem.control.progress is not None:
            self.problem.control.progress(self.history[-1])

    # --- the end -----------------------------------------------------------------------------------------------------

    def refit(self) -> None:
        """Two sweeps over all entries, from the best."""
        if self.factors is None or self.held is None or self.problem.control.out_of_time or not self.status.ok:
            return
        noise = min(1.0, self.error(self.factors, self.train) ** 2)
        self.train = CPEntries((), self.train.values[:0], None, self.train.shape, ())  # its room is needed
        self.train = self.entries(self.problem.observations, None, sort=True)
        state = (self.factors, noise)
        for _ in range(2):
            if not self.problem.control.out_of_time:
                state, _ = self.sweep(*state, self.train, None)
        self.factors = state[0]

    def result(self) -> CompletionFit:
        """What is best, in the scale of the data."""
        values = self.problem.observations.values
        rank = max(1, self.rank)
        factors = self.factors or tuple(values.new_zeros(n, rank) for n in self.layout.shape)
        train = self.error(factors, self.train)
        lengths = [f.norm(dim=0).clamp_min(torch.finfo(values.dtype).tiny) for f in factors]
        weights = torch.ones_like(lengths[0]) * self.scale
        for length in lengths:
            weights = weights * length
        unit = tuple(f / length for f, length in zip(factors, lengths, strict=True))
        heldout = self.heldout if isfinite(self.heldout) and self.held is not None else None
        status: Status = TIME_LIMIT if self.status.ok and self.problem.control.out_of_time else self.status
        if status.ok and heldout is not None and heldout >= NOTHING:
            status = nothing_found(self.problem.observations, rank)
        return CompletionFit((weights.to(values.dtype), *unit), None, heldout, train, status, tuple(self.history))


def nothing_found(obs: Observations, rank: int) -> Status:
    """What is said where nothing was learnt: how many entries a start needs, roughly."""
    needed = rank * prod(n**0.5 for n in obs.shape)
    few = f"; a start needs about {needed:,.0f} entries for {rank} terms here, and there are {obs.n:,}"
    return Status(
        "nothing_found",
        False,
        "no start told anything of the entries that were held out"
        + (few if obs.n < 2 * needed else "")
        + "; give more entries, or try another rank or method",
    )


def _held(obs: Observations, share: float, rng: torch.Generator) -> Tensor | None:
    """True for entries drawn at random, or None where there are too few."""
    count = min(HELD, round(share * obs.n))
    if count < 10:
        return None
    picks = torch.zeros(obs.n, dtype=torch.bool, device=obs.values.device)
    picks[torch.randperm(obs.n, generator=rng, device=rng.device)[:count].to(picks.device)] = True
    return picks
