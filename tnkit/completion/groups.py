"""Tables whose rows are samples: groups of rows, each with its own dependence of columns, chosen by held-out entries.

Example:
    >>> import numpy as np
    >>> from tnkit.completion import complete
    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.normal(size=(2, 200))
    >>> table = np.stack([a, b, a + b, a - b], 1) + 0.1 * rng.normal(size=(200, 4))
    >>> holes = np.where(rng.random(table.shape) < 0.8, table, np.nan)
    >>> done = complete(holes, method="groups")
    >>> bool(np.linalg.norm(done.filled - table) < 0.4 * np.linalg.norm(table)), done.std([[0, 0]]).shape
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
from tnkit.completion.row_mixture import Rows, RowsState
from tnkit.completion.separable import own_scales
from tnkit.completion.similarity import uneven
from tnkit.completion.spatial import relative_error
from tnkit.errors import OptionError
from tnkit.rng import generator
from tnkit.solvers import CONVERGED, INTERRUPTED, TIME_LIMIT, Record, Status, iterate

__all__ = ["RowGroups", "row_cost"]

#: A run has settled when what is filled in changes by less than this share in a step.
TOL = 2e-3
#: By how much `pull` is changed from trial to trial, and how often at the most.
FACTOR, TRIALS = 4.0, 3


@register
@dataclass(frozen=True, slots=True)
class RowGroups(CompletionMethod):
    """A mixture of Gaussians over the rows; tables of samples × measurements, in any order. It gives a dense array.

    The rows are the positions of the longest mode, the columns all the rest. Columns may have different units.
    `Completion.std` tells the standard deviations of what is filled in, 0 where something is observed.

    Attributes:
        groups: how many Gaussians; None: one more as long as held-out entries are nearer for it.
        pull: rows that draw the covariance to that of columns which do not depend on each other; None: chosen by
            held-out entries.
        most: groups at the most, where the number is chosen.
        max_steps: of expectation maximisation.
        holdout: share of the observed entries held out (in the manner in which entries are missing) and given back; 0
            for none: then what is left open is one group and pull 1.

    Cost: of each row, a step solves a system of the size of what is missing there, for each group.

    References: Dempster, Laird, Rubin 1977, doi:10.1111/j.2517-6161.1977.tb01600.x; Little, Rubin 2019,
    doi:10.1002/9781119482260.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> x = np.outer(np.arange(30.0), [1.0, 2.0, -1.0]) + [0.0, 100.0, 5.0]
        >>> mask = np.random.default_rng(0).random(x.shape) < 0.8
        >>> done = complete(x, mask=mask, method=RowGroups(groups=1))
        >>> bool(np.abs(done.filled - x).max() < 3)
        True
    """

    groups: int | None = None
    pull: float | None = None
    most: int = 4
    max_steps: int = 40
    holdout: float = 0.1
    name: ClassVar[str] = "groups"
    formats: ClassVar[bool] = False
    weights: ClassVar[bool] = False
    summary: ClassVar[str] = "groups of rows with their own dependence of columns; tables of samples, deviations"

    def __post_init__(self) -> None:
        """Refuse options that cannot be.

        Raises:
            OptionError: less than one group or step, a pull that is not above 0, or a share outside 0 … 1.
        """
        if (self.groups is not None and self.groups < 1) or self.most < 1 or self.max_steps < 1:
            raise OptionError(f"{self!r}: groups, most and max_steps must be 1 or more.")
        if (self.pull is not None and not self.pull > 0) or not 0 <= self.holdout < 1:
            raise OptionError(f"{self!r}: pull must be above 0, holdout at least 0 and below 1.")

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            ShapeError: a series, which has no columns.
        """
        return _Run(self, replace(problem, observations=checked(problem.observations, self.name))).result()


def row_cost(obs: Observations) -> float:
    """Multiplications of a step for one group, about."""
    rows = max(obs.shape)
    missing = (1 - obs.fraction) * prod(obs.shape) / rows
    return rows * (missing**3 + (prod(obs.shape) / rows) ** 2)


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """So many groups, so strongly drawn, what they give, and the error in units of the columns."""

    groups: int
    pull: float
    state: RowsState
    error: float


class _Run:
    """One completion in progress."""

    def __init__(self, method: RowGroups, problem: CompletionProblem) -> None:
        self.method, self.obs = method, problem.observations
        self.record, self.rng, self.aside = Record(problem.control), problem.rng, problem.aside
        self.control = replace(self.record.control, max_steps=method.max_steps, tol=0.0, target=TOL)
        self.seed = int(torch.randint(2**31, (), generator=problem.rng, device=problem.rng.device))
        self.mode = max(range(self.obs.ndim), key=lambda k: self.obs.shape[k])
        self.stopped: Status | None = None

    def flat(self, x: Tensor) -> Tensor:
        """(rows, columns)."""
        return x.movedim(self.mode, 0).reshape(x.shape[self.mode], -1)

    def unflat(self, x: Tensor) -> Tensor:
        """The array."""
        shape = [n for k, n in enumerate(self.obs.shape) if k != self.mode]
        return x.reshape(-1, *shape).movedim(0, self.mode)

    def dense(self, state: RowsState) -> Tensor:
        """In the units of the data."""
        return self.unflat(state.filled * self.unit + self.middle)

    def result(self) -> CompletionFit:
        """Choices by held-out entries, then everything."""
        known, aside = self.obs, self.aside
        if aside is None:
            held = split_alike(self.obs, self.method.holdout, self.rng, kept=uneven(self.obs))
            known, aside = (self.obs, None) if held is None else (self.obs.take(~held), self.obs.take(held))
        best = None if aside is None else self.choose(known, aside)
        heldout = None if best is None or aside is None else relative_error(self.dense(best.state), aside)
        if best is not None and self.stopped is not None:
            return self.done(best.state, heldout, None)
        groups, pull = (self.method.groups or 1, self.plain) if best is None else (best.groups, best.pull)
        state = best.state if best is not None and known is self.obs else self.learn(self.rows(self.obs), groups, pull)
        settled = replace(self.method, groups=groups, pull=pull, holdout=0.0)
        return replace(self.done(state, heldout, self.spread(state)), settled=settled)

    @property
    def plain(self) -> float:
        """How strongly it is drawn where nothing tells."""
        return self.method.pull or 1.0

    def done(self, state: RowsState, heldout: float | None, spread: Callable[[Tensor], Tensor] | None) -> CompletionFit:
        """In the precision of the data."""
        x = self.dense(state).to(self.obs.values.dtype)
        status = self.stopped or CONVERGED
        error = relative_error(x, self.obs)
        return CompletionFit(None, x, heldout, error, status, tuple(self.record.steps), std=spread)

    def spread(self, state: RowsState) -> Callable[[Tensor], Tensor]:
        """Standard deviations."""
        array = self.unflat(state.variance.clamp_min(0).sqrt() * self.unit)
        return lambda wanted: array[tuple(wanted.unbind(-1))]

    def rows(self, obs: Observations) -> Rows:
        """Of columns of mean 0 and variance 1, whose units are those of all answers from now on."""
        seen = self.flat(obs.mask())
        table = self.flat(obs.to_dense().to(torch.float64))
        self.middle, self.unit = own_scales(table, seen.to(torch.float64), 1)
        return Rows((table - self.middle) / self.unit, seen)

    def choose(self, known: Observations, aside: Observations) -> _Choice:
        """How strongly to draw a single Gaussian, first more, then less; then one more group at a time."""
        rows = self.rows(known)
        unit = self.unflat(self.unit.expand(self.obs.shape[self.mode], -1))
        places = tuple(aside.indices.unbind(-1))
        truth = aside.values.to(torch.float64)

        def tried(groups: int, pull: float, single: RowsState | None = None) -> _Choice:
            state = self.learn(rows, groups, pull, single)
            off = (self.dense(state)[places] - truth) / unit[places]
            return _Choice(groups, pull, state, float(off.norm()))

        first = self.method.groups or 1
        best = tried(first, self.plain)
        for factor in (FACTOR, 1 / FACTOR) if self.method.pull is None else ():
            for _ in range(TRIALS):
                other = best if self.stopped is not None else tried(first, best.pull * factor)
                if other.error >= best.error:
                    break
                best = other
            if best.pull > self.plain:
                break
        most = first if self.method.groups is not None else min(self.method.most, max(known.shape) // 8)
        single = best.state if best.groups == 1 else None
        for groups in range(first + 1, most + 1):
            other = best if self.stopped is not None else tried(groups, best.pull, single)
            if other.error >= best.error and groups > first + 1:
                break
            best = min(best, other, key=lambda c: c.error)
        return best

    def learn(self, rows: Rows, groups: int, pull: float, single: RowsState | None = None) -> RowsState:
        """Steps until what is filled in stands still; the last state."""
        last = single or self.steps(rows, rows.one(pull))
        if groups == 1 or self.stopped is not None:
            return last
        return self.steps(rows, rows.several(last, groups, generator(self.seed, rows.x.device)))

    def steps(self, rows: Rows, start: RowsState) -> RowsState:
        """Expectation maximisation from a start."""
        last = [start]

        def step(state: RowsState, number: int) -> tuple[RowsState, float]:
            after, change = rows.step(state)
            last[:] = [after]
            return after, change

        status = iterate(step, start, self.control).status
        if status in (INTERRUPTED, TIME_LIMIT):
            self.stopped = status
        return last[0]
