"""A blend of methods of different kinds, weighted by entries that none of them was shown; panels and tables.

Which method is best on a panel differs from one to the next, and their errors differ from each other. So each is run
without some of the entries (held out in the manner in which entries are missing), the weights are those of least
squares there, not negative and of sum one (`tnkit.completion.blend`), and those that count are run again on everything.

Example:
    >>> import numpy as np
    >>> from tnkit.completion import complete
    >>> rng = np.random.default_rng(0)
    >>> x = np.sin(np.arange(24) / 4)[:, None, None] * rng.normal(size=(10, 6)) + 0.1 * rng.normal(size=(24, 10, 6))
    >>> holes = np.where(rng.random(x.shape) < 0.5, x, np.nan)
    >>> done = complete(holes, method="blend")
    >>> bool(np.linalg.norm(done.filled - x) < 0.3 * np.linalg.norm(x)), done.tensor is None
    (True, True)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf, prod
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.completion.als import CompletionALS
from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.blend import blended, simplex_weights
from tnkit.completion.convex import checked
from tnkit.completion.gaussian import SeparableGaussian, units_of
from tnkit.completion.groups import RowGroups, row_cost
from tnkit.completion.halrtc import TruncatedNuclear
from tnkit.completion.holdout_alike import split_alike
from tnkit.completion.observations import Observations
from tnkit.completion.similarity import uneven
from tnkit.completion.spatial import relative_error
from tnkit.completion.tnn import TubalNuclear
from tnkit.errors import OptionError
from tnkit.rng import generator
from tnkit.solvers import CONVERGED, INTERRUPTED, TIME_LIMIT, Record, Status

__all__ = ["Blend", "Blended", "affordable", "blend_of", "usual_members"]

#: Observed entries below which three, and two, parts are held out in turn.
THREE, TWO = 3_000, 20_000
#: Members whose error is beyond this multiple of the least on the first part are left out.
FAR = 1.5
#: Multiplications that a format gets each time: some seconds of one core, counted and not timed.
EFFORT = 6e10
#: Entries of the largest array that is also a Gaussian one, and multiplications of a step of the largest row groups.
GAUSSIAN, ROWS = 2**17, 2e7
#: Arrays of more entries are computed in single precision, where errors are not below this.
LARGE, FINE = 100_000, 3e-3


def usual_members(ndim: int) -> tuple[CompletionMethod, ...]:
    """What is blended of an array of so many modes."""
    members: list[CompletionMethod] = [SeparableGaussian()]
    if ndim >= 2:
        members.append(TruncatedNuclear(thetas=(0.0, 0.1, 0.2), factor=1.15))
    if ndim == 2:
        members.append(RowGroups())
    if ndim >= 3:
        members.append(TubalNuclear(transform="learnt", factor=1.2))
    return tuple(members)


def affordable(members: Sequence[CompletionMethod], obs: Observations) -> list[CompletionMethod]:
    """Those of some members that an array is not too large for."""
    small = prod(obs.shape) <= GAUSSIAN
    few = row_cost(obs) <= ROWS
    return [m for m in members if (small or m.name != "gaussian") and (few or m.name != "groups")]


@register
@dataclass(frozen=True, slots=True)
class Blend(CompletionMethod):
    """The weighted mean of several methods' arrays; real arrays. It gives a dense array and no format.

    Attributes:
        members: methods without a format, such as `SeparableGaussian()` and `TruncatedNuclear()`; empty: a separable
            Gaussian, truncated nuclear norms and, of three and more modes, the tubal nuclear norm with a learnt
            transform.
        holdout: share of the observed entries by which the weights are found; of few entries, two or three such parts
            in turn.

    Cost: that of all members, two to four times.

    Raises:
        OptionError: members that fit a format, or a share outside 0 … 1.

    References: Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1; Breiman 1996, doi:10.1007/BF00117832.
    """

    members: Sequence[CompletionMethod] = field(default_factory=tuple)
    holdout: float = 0.1
    name: ClassVar[str] = "blend"
    formats: ClassVar[bool] = False
    weights: ClassVar[bool] = False
    summary: ClassVar[str] = "several methods' arrays, weighted by entries that none was shown; tables and panels"

    def __post_init__(self) -> None:
        if any(member.formats for member in self.members) or not 0 < self.holdout < 1:
            raise OptionError(
                f"{self!r}: members are methods without a format, and holdout is above 0 and below 1. Fit formats "
                "apart, with method= their own name."
            )

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
        """
        obs = checked(problem.observations, self.name, least=1)
        record = Record(problem.control)
        members = tuple(self.members) or affordable(usual_members(obs.ndim), obs) or usual_members(obs.ndim)
        seed = int(torch.randint(2**31, (), generator=problem.rng, device=problem.rng.device))
        found = blend_of(replace(problem, control=record.control), members, self.holdout, seed)
        if found is None:
            return members[0].fit(problem)
        return replace(found.fit, history=tuple(record.steps))


@dataclass(frozen=True, slots=True, eq=False)
class Blended:
    """A blend, the weights of all members, and their held-out errors (inf where there was no time for one)."""

    fit: CompletionFit
    weights: tuple[float, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What the members made of the entries without some, with what choices, and why it was cut short, or None."""

    aside: Observations
    arrays: list[Tensor]
    settled: list[CompletionMethod | None]
    stopped: Status | None

    @property
    def guesses(self) -> list[Tensor]:
        """Of the entries aside."""
        places = tuple(self.aside.indices.unbind(-1))
        return [x[places].to(torch.float64) for x in self.arrays]

    @property
    def truth(self) -> Tensor:
        """Their values."""
        return self.aside.values.to(torch.float64)

    def unit(self, units: Tensor | None, mode: int | None) -> Tensor:
        """By what errors there are divided: units of positions of a mode, or 1."""
        return torch.ones_like(self.truth) if units is None or mode is None else units[self.aside.indices[:, mode]]


def blend_of(
    problem: CompletionProblem, members: Sequence[CompletionMethod], holdout: float, seed: int
) -> Blended | None:
    """The blend of some methods; None where too few entries are observed to hold some out.

    Args:
        problem: with a layout where a member fits a format.
        members: the methods.
        holdout: share of the entries held out.
        seed: of what is held out, and of the methods.
    """
    obs, device = problem.observations, problem.observations.values.device
    parts: list[_Part] = []
    counting = list(range(len(members)))
    ready: list[list[CompletionMethod]] = [[] for _ in members]  # with the choices that held-out entries made
    kept = uneven(obs)
    units = units_of(obs, kept) if kept is not None and obs.ndim == 2 else None  # of the columns of a table
    few = obs.n < THREE
    for number in range(3 if few else 2 if obs.n < TWO else 1):
        held = split_alike(obs, holdout, generator(seed + number, device), kept=kept)
        if held is None or (parts and problem.control.out_of_time):
            break
        own = seed + number if few else seed
        again = [members[k] if few or not ready[k] else ready[k][0] for k in counting]  # where there are many entries,
        part = _part(problem, again, obs.take(~held), obs.take(held), own)  # choices cost most, and need be made once
        for k, settled in zip(counting, part.settled, strict=False):
            ready[k].append(settled or members[k])
        if not parts:
            errors = [relative_error(x, part.aside) for x in part.arrays]
            judged = [float((g - part.truth).div(part.unit(units, kept)).norm()) for g in part.guesses]
            near = [k for k, error in enumerate(judged) if error <= FAR * min(judged)]
            told = (*errors, *(inf,) * (len(members) - len(errors)))
            counting, part = near, replace(part, arrays=[part.arrays[k] for k in near])
        elif part.stopped is not None:
            break  # what is there already is of all that count
        parts.append(part)
        if part.stopped is not None:
            break
    if not parts:
        return None
    truth = torch.cat([part.truth for part in parts])
    unit = torch.cat([part.unit(units, kept) for part in parts])
    guesses = [torch.cat([part.guesses[k] for part in parts]) for k in range(len(counting))]
    weights = simplex_weights([g / unit for g in guesses], truth / unit)
    size = float(truth.norm()) or 1.0
    heldout = float((blended(guesses, weights) - truth).norm()) / size
    status, arrays = parts[0].stopped or CONVERGED, parts[-1].arrays
    if parts[0].stopped is None:
        whole: list[Tensor] = []
        for k, w, before in zip(counting, weights, arrays, strict=True):
            fits: list[CompletionFit] = []
            for number, method in _distinct(ready[k]) if w > 0 and status is CONVERGED else ():
                fit = _dense(replace(problem, rng=generator(seed + number, device)), method, fine=min(told) < FINE)
                status = fit.status if fit.status in (INTERRUPTED, TIME_LIMIT) else CONVERGED
                fits += [fit] * (fit.train_error <= max(2 * told[k], 1e-3))
                if status is not CONVERGED:
                    break
            whole.append(_mean(fits) if fits else before)
        arrays = whole if status is CONVERGED else arrays
    dense = blended([x.to(torch.float64) for x in arrays], weights).to(obs.values.dtype)
    of_all, every = dict(zip(counting, weights, strict=True)), list(told)
    for k, guess in zip(counting, guesses, strict=True):
        every[k] = float((guess - truth).norm()) / size
    return Blended(
        CompletionFit(None, dense, heldout, relative_error(dense, obs), status),
        tuple(of_all.get(k, 0.0) for k in range(len(members))),
        tuple(every),
    )


def _distinct(methods: Sequence[CompletionMethod]) -> list[tuple[int, CompletionMethod]]:
    """Those that differ, with the number of the part that chose each; a format is fitted once."""
    first = {repr(method): (number, method) for number, method in reversed(list(enumerate(methods)))}
    return sorted(first.values(), key=lambda pair: pair[0])


def _mean(fits: Sequence[CompletionFit]) -> Tensor:
    """Of dense arrays: what differs between choices that a few entries made is mostly chance."""
    arrays = [fit.dense.to(torch.float64) for fit in fits if fit.dense is not None]
    return blended(arrays, [1 / len(arrays)] * len(arrays))


def _part(
    problem: CompletionProblem, members: Sequence[CompletionMethod], known: Observations, aside: Observations, seed: int
) -> _Part:
    arrays: list[Tensor] = []
    settled: list[CompletionMethod | None] = []
    by = (
        aside if problem.observations.n >= TWO else None
    )  # where there are many, choices by the same entries do no harm
    for member in members:
        rng = generator(seed, known.values.device)
        fit = _dense(replace(problem, observations=known, rng=rng, aside=by), member)
        assert fit.dense is not None
        arrays.append(fit.dense)
        settled.append(fit.settled)
        if fit.status is INTERRUPTED or problem.control.out_of_time:
            return _Part(aside, arrays, settled, INTERRUPTED if fit.status is INTERRUPTED else TIME_LIMIT)
    return _Part(aside, arrays, settled, None)


def _dense(problem: CompletionProblem, member: CompletionMethod, *, fine: bool = False) -> CompletionFit:
    """A member's fit with its dense array, large ones in single precision unless fine; a format gets so much effort."""
    if not member.formats:
        large = prod(problem.observations.shape) > LARGE and problem.observations.values.dtype == torch.float64
        return _single(problem, member) if large and not fine else member.fit(problem)
    assert problem.layout is not None
    short = replace(member, refine=False, effort=EFFORT) if isinstance(member, CompletionALS) else member
    fit = short.fit(replace(problem, ranks=None))
    assert fit.tensors is not None
    status = fit.status if fit.status is INTERRUPTED or problem.control.out_of_time else CONVERGED
    return replace(fit, dense=problem.layout.build(fit.tensors).to_dense(), status=status)


def _single(problem: CompletionProblem, member: CompletionMethod) -> CompletionFit:
    """A member's fit to values in single precision, of size 1 at the most; its array is in double."""
    size = float(problem.observations.values.abs().max()) or 1.0

    def light(obs: Observations) -> Observations:
        return obs.with_values((obs.values / size).to(torch.float32))

    aside = None if problem.aside is None else light(problem.aside)
    fit = member.fit(replace(problem, observations=light(problem.observations), aside=aside))
    assert fit.dense is not None
    return replace(fit, dense=fit.dense.to(torch.float64) * size)
