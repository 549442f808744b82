"""The separable Gaussian as a completion method: how it is scaled and how long it learns by held-out entries.

Example:
    >>> import numpy as np
    >>> from tnkit.completion import complete
    >>> rng = np.random.default_rng(0)
    >>> table = rng.normal(size=(80, 2)) @ rng.normal(size=(2, 6)) * 10.0 ** np.arange(6)
    >>> holes = np.where(rng.random(table.shape) < 0.7, table, np.nan)
    >>> done = complete(holes, method="gaussian")
    >>> bool(np.linalg.norm(done.filled - table) < 0.5 * np.linalg.norm(table)), done.std([[0, 0]]).shape
    (True, (1,))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.convex import checked
from tnkit.completion.holdout_alike import split_alike
from tnkit.completion.observations import Observations
from tnkit.completion.separable import LONGEST, Separable, SeparableState
from tnkit.completion.similarity import uneven
from tnkit.completion.spatial import relative_error
from tnkit.errors import OptionError
from tnkit.rng import generator
from tnkit.solvers import CONVERGED, INTERRUPTED, TIME_LIMIT, Record, Status, StepInfo

__all__ = ["SeparableGaussian"]

#: After so many steps the held-out error is looked at; of large arrays.
LOOKS, SELDOM = (1, 2, 4, 7, 11, 16), (2, 4, 8, 16)
#: Arrays of more entries, and where a product takes more multiplications, are computed in float32.
LARGE, HEAVY = 100_000, 5e6
#: Draws for standard deviations.
DRAWS = 24


@register
@dataclass(frozen=True, slots=True)
class SeparableGaussian(CompletionMethod):
    """A Gaussian array with a covariance of each mode, learnt; tables, panels, series of several stations and kinds.

    The conditional mean is a dense array without a format; `Completion.std` tells its standard deviations. Positions
    of a mode may be in any order: of neighbours that are alike the covariance is smooth. Columns of different units are
    brought to one scale where held-out entries are nearer for it.

    Attributes:
        pull: how strongly covariances are drawn to simple ones; None: chosen by held-out entries.
        own: the mode whose positions have a mean and a scale of their own (1 for the columns of a table); "none" for
            one scale; "auto": chosen by held-out entries.
        smooth: whether what neighbours do not share is noise; None: chosen by held-out entries.
        max_steps: of expectation maximisation; how many is chosen by held-out entries.
        holdout: share of the observed entries held out (in the manner in which entries are missing) and given back; 0
            for none: then choices that are left open are pull 1, one scale, not smooth, and all steps are taken.

    Cost:
        a step takes some 40 products of the array with each covariance: N Σ n_k multiplications each. Memory: a
        dozen arrays.

    Reference: Allen, Tibshirani 2010, doi:10.1214/09-AOAS314.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> x = np.add.outer(np.sin(np.arange(20) / 3), np.arange(10) / 5)
        >>> mask = np.random.default_rng(0).random(x.shape) < 0.5
        >>> done = complete(x, mask=mask, method=SeparableGaussian())
        >>> bool(np.linalg.norm(done.filled - x) < 0.1 * np.linalg.norm(x))
        True
    """

    pull: float | None = None
    own: int | str = "auto"
    smooth: bool | None = None
    max_steps: int = 16
    holdout: float = 0.1
    name: ClassVar[str] = "gaussian"
    formats: ClassVar[bool] = False
    weights: ClassVar[bool] = False
    summary: ClassVar[str] = "a Gaussian array with a learnt covariance of each mode; tables, panels, deviations"

    def __post_init__(self) -> None:
        """Refuse options that cannot be.

        Raises:
            OptionError: a pull that is not above 0, an unknown `own`, less than one step, or a share outside 0 … 1.
        """
        if isinstance(self.own, str) and self.own not in ("auto", "none"):
            raise OptionError(f'own={self.own!r}: give a mode, "none" or "auto".')
        if (self.pull is not None and not self.pull > 0) or self.max_steps < 1 or not 0 <= self.holdout < 1:
            raise OptionError(f"{self!r}: pull must be above 0, max_steps 1 or more, holdout at least 0 and below 1.")

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            OptionError: `own` is not a mode of the array.
        """
        obs = checked(problem.observations, self.name, least=1)
        if isinstance(self.own, int) and not 0 <= self.own < obs.ndim:
            raise OptionError(f"own={self.own} is not one of the modes 0 to {obs.ndim - 1}.")
        return _Run(self, problem).result()


@dataclass(frozen=True, slots=True)
class _Form:
    """How it is scaled, how strongly drawn, and to what; see `Separable`."""

    own: int | None
    pull: float
    smooth: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """A form, after how many steps it is best, its array then, the error there, and by what it is compared."""

    form: _Form
    steps: int
    dense: Tensor
    error: float
    judged: float


class _Run:
    """One completion in progress."""

    def __init__(self, method: SeparableGaussian, problem: CompletionProblem) -> None:
        self.method, self.problem = method, problem
        self.record = Record(problem.control)
        obs = problem.observations
        self.large = prod(obs.shape) > LARGE or prod(obs.shape) * sum(n for n in obs.shape if n <= LONGEST) > HEAVY
        looks = SELDOM if self.large else LOOKS
        self.looks = [n for n in looks if n <= method.max_steps] or [method.max_steps]
        self.seed = int(torch.randint(2**31, (), generator=problem.rng, device=problem.rng.device))
        self.stopped: Status | None = None
        self.units: Tensor | None = None
        middle = float(obs.values.to(torch.float64).mean())
        size = float((obs.values.to(torch.float64) - middle).abs().max())
        self.middle, self.size = middle, size

    def result(self) -> CompletionFit:
        """Choices by held-out entries, then everything."""
        obs = self.problem.observations
        if self.size == 0:
            dense = torch.full(obs.shape, self.middle, dtype=obs.values.dtype, device=obs.values.device)
            return CompletionFit(None, dense, 0.0, 0.0, CONVERGED)
        held = split_alike(obs, self.method.holdout, self.problem.rng, kept=uneven(obs))
        best = None if held is None else self.choose(obs.take(~held), obs.take(held))
        heldout = None if best is None else best.error
        if best is not None and self.stopped is not None:
            return self.done(best.dense, heldout, None)
        form, steps = (self.plain, self.method.max_steps) if best is None else (best.form, best.steps)
        model = self.model(obs, form)
        state = self.learn(model, min(steps, self.method.max_steps), lambda number, _: number < steps)
        spread = None if self.stopped is not None else self.spread(model, state)
        fit = self.done(model.dense(state), heldout, spread)
        own: int | str = "none" if form.own is None else form.own
        settled = SeparableGaussian(form.pull, own, form.smooth, steps, 0.0)
        fit = replace(fit, settled=settled)
        if best is not None and fit.train_error > max(2 * best.error, 1e-3):
            return self.done(best.dense, heldout, None)  # so little noise that the last system was not solved
        return fit

    def done(self, dense: Tensor, heldout: float | None, spread: Callable[[Tensor], Tensor] | None) -> CompletionFit:
        """In the units and the precision of the data."""
        obs = self.problem.observations
        x = (dense.to(torch.float64) * self.size + self.middle).to(obs.values.dtype)
        steps = tuple(self.record.steps)
        return CompletionFit(None, x, heldout, relative_error(x, obs), self.stopped or CONVERGED, steps, std=spread)

    def model(self, obs: Observations, form: _Form) -> Separable:
        """Of values whose largest deviation from the mean is 1."""
        dtype = torch.float32 if self.large else torch.float64
        values = ((obs.values.to(torch.float64) - self.middle) / self.size).to(dtype)
        rng = generator(self.seed, obs.values.device)
        dense, seen = obs.with_values(values).to_dense(), obs.mask()
        return Separable(dense, seen, pull=form.pull, own=form.own, rng=rng, smooth=form.smooth)

    def choose(self, known: Observations, aside: Observations) -> _Choice:
        """One scale or one for each position of the most uneven mode; to what covariances to draw, and how strongly."""
        pull = self.plain.pull
        own = uneven(known)
        if own is not None:
            self.units = units_of(known, own)[aside.indices[:, own]]
        own = own if self.method.own == "auto" else None
        best = self.tried(known, aside, self.plain)
        if own is not None:
            best = self.better(best, known, aside, replace(best.form, own=own))
        if self.method.smooth is None:
            best = self.better(best, known, aside, replace(best.form, smooth=True))
        if self.method.pull is None and prod(known.shape) <= LARGE and max(known.shape) ** 2 > 0.02 * prod(known.shape):
            for other in (3.0, 10.0):
                before, best = best, self.better(best, known, aside, replace(best.form, pull=other))
                if best is before:
                    break
            if best.form.pull == pull:
                best = self.better(best, known, aside, replace(best.form, pull=0.3))
        return best

    @property
    def plain(self) -> _Form:
        """What is asked for, and the simplest of what is left open."""
        method = self.method
        own = method.own if isinstance(method.own, int) else None
        return _Form(own, method.pull or 1.0, bool(method.smooth))

    def better(self, best: _Choice, known: Observations, aside: Observations, form: _Form) -> _Choice:
        """The better one of what there is and another form."""
        if self.stopped is not None:
            return best
        return min(best, self.tried(known, aside, form), key=lambda c: c.judged)

    def tried(self, known: Observations, aside: Observations, form: _Form) -> _Choice:
        """The best number of steps."""
        found: list[_Choice] = []
        model = self.model(known, form)

        def look(number: int, state: SeparableState) -> bool:
            if number in self.looks or not found:
                x = model.dense(state)
                full = x.to(torch.float64) * self.size + self.middle
                error = relative_error(full, aside)
                off = full[tuple(aside.indices.unbind(-1))] - aside.values
                judged = error if self.units is None else float((off / self.units).norm())
                found.append(_Choice(form, number, x, error, judged))
                if number:
                    self.record(StepInfo(number, error, 0.0))
            return len(found) < 3 or min(c.judged for c in found[:-2]) > min(c.judged for c in found[-2:])

        self.learn(model, self.looks[-1], look)
        return min(found, key=lambda c: c.judged)

    def learn(self, model: Separable, steps: int, look: Callable[[int, SeparableState], bool]) -> SeparableState:
        """So many steps of expectation maximisation, or until `look` says no more."""
        state = model.start()
        try:
            for number in range(1, steps + 1):
                state = model.step(state, number)[0]
                if not look(number, state):
                    break
                if self.problem.control.out_of_time:
                    self.stopped = TIME_LIMIT
                    break
        except KeyboardInterrupt:
            self.stopped = INTERRUPTED
            look(0, state)  # something is there at least
        return state

    def spread(self, model: Separable, state: SeparableState) -> Callable[[Tensor], Tensor]:
        """Standard deviations, made when they are first asked for."""
        made: list[Tensor] = []

        def std(wanted: Tensor) -> Tensor:
            if not made:
                made.append(model.std(state, DRAWS).to(torch.float64) * self.size)
            return made[0][tuple(wanted.unbind(-1))]

        return std


def units_of(obs: Observations, mode: int) -> Tensor:
    """(n,) the standard deviation of each position of a mode, by which errors there are compared."""
    y, at, n = obs.values.to(torch.float64), obs.indices[:, mode], obs.shape[mode]
    count = torch.bincount(at, minlength=n).to(y).clamp_min(1)
    mean = torch.zeros(n, dtype=y.dtype, device=y.device).index_add_(0, at, y) / count
    square = torch.zeros(n, dtype=y.dtype, device=y.device).index_add_(0, at, (y - mean[at]).square())
    whole = float(y.std(correction=0)) or 1.0
    found = (square / count).sqrt()
    return torch.where(count > 1, found, found.new_tensor(whole)).clamp_min(1e-9 * whole)
