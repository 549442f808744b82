"""Smooth factors: FunBaT as a completion method, and the loop around it.

Example:
    >>> import numpy as np
    >>> from tnkit.completion import complete
    >>> t = np.linspace(0, 1, 12)
    >>> x = np.sin(3 * t[:, None] * t)
    >>> holes = np.where(np.random.default_rng(0).random(x.shape) < 0.5, x, np.nan)
    >>> done = complete(holes, method="funbat", rank=2)
    >>> bool(np.abs(done.filled - x).max() < 0.05), done.std([[0, 0]]).shape
    (True, (1,))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, own_layout, register
from tnkit.completion.funbat import FunctionalPosterior, begin, functional_round
from tnkit.completion.holdout import split
from tnkit.completion.lack_of_fit import lack_of_fit
from tnkit.completion.state_space import KERNELS, Chain
from tnkit.errors import DTypeError, OptionError, ShapeError
from tnkit.solvers import CONVERGED, INTERRUPTED, MAX_STEPS, TIME_LIMIT, Control, Status, StepInfo

__all__ = ["Fitted", "FunBaT", "fit_ranks", "lacking"]

Array = np.ndarray
#: A rank counts as better where the held-out error falls by this share.
GAIN = 0.02


@register
@dataclass(frozen=True, slots=True)
class FunBaT(CompletionMethod):
    """Tucker whose factors are Gaussian processes along their modes; posterior mean and standard deviation.

    Attributes:
        kernel: "matern12" (rough), "matern32" (smooth) or "spline" (cubic smoothing splines).
        length: of the kernels at the start, as a share of a mode's extent; it adapts while fitting.
        learn: whether it does.
        coordinates: for each mode its real positions, ascending; None for evenly spaced ones.
        max_steps: rounds at the most.
        tol: it ends when the held-out error (or the noise) changes by less than this share over three rounds.
        damping: share of the new messages in a round.
        holdout: share of the observed entries held out, and given back for the last rounds; 0 for none.
        max_rank: ranks are tried up to this where none is given.

    Weights, complex values: not taken. Cost: a round takes N (r_1 ⋯ r_d)² multiplications and one step of a filter
    for each position of each mode.

    Raises:
        OptionError: an unknown kernel, or numbers outside their ranges.

    Reference: Fang et al. 2024, arXiv:2311.04829.
    """

    kernel: str = "matern32"
    length: float = 0.5
    learn: bool = True
    coordinates: tuple[Sequence[float], ...] | None = None
    max_steps: int = 20
    tol: float = 3e-3
    damping: float = 0.9
    holdout: float = 0.1
    max_rank: int = 6
    name: ClassVar[str] = "funbat"
    only: ClassVar[str] = "tucker"
    weights: ClassVar[bool] = False
    summary: ClassVar[str] = "Tucker with Gaussian-process factors; real coordinates, standard deviations"

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise OptionError(f"FunBaT(kernel={self.kernel!r}): use one of {', '.join(KERNELS)}.")
        sound = self.length > 0 and self.tol >= 0 and 0 < self.damping <= 1 and 0 <= self.holdout < 1
        if not sound or self.max_steps < 1 or self.max_rank < 1:
            raise OptionError(
                "FunBaT: length must be above 0, tol at least 0, damping above 0 and at most 1, holdout from 0 to "
                "below 1, max_steps and max_rank 1 or more."
            )

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            ShapeError: coordinates that do not fit the array.
            OptionError: another format than Tucker.
        """
        layout, obs = own_layout(self, problem), problem.observations
        if obs.values.is_complex():
            raise DTypeError('method "funbat" takes real arrays; complete real and imaginary part apart.')
        at = self.positions(obs.shape)
        scale = float(obs.values.double().square().mean().sqrt()) or 1.0
        y, indices = obs.values.double().cpu().numpy() / scale, obs.indices.cpu().numpy()
        held = split(obs, self.holdout, problem.rng)
        aside = None if held is None else held.cpu().numpy()
        ranks = None if problem.ranks is None else [tuple(problem.ranks)]
        if ranks is None:
            ranks = [tuple(min(r, cap) for cap in layout.caps) for r in range(1, self.max_rank + 1)]
        found = fit_ranks(self, at, y, indices, aside, list(dict.fromkeys(ranks)), problem.control)
        s = found.posterior
        tensors = [s.core.reshape(s.ranks) * scale, *(f.mean for f in s.factors)]
        like, lack = obs.values, lacking(s, y, indices)

        def std(wanted: Tensor) -> Tensor:
            return torch.from_numpy(np.sqrt(s.moments_at(wanted.cpu().numpy())[1] + lack) * scale)

        return CompletionFit(
            tuple(torch.from_numpy(np.ascontiguousarray(t)).to(like) for t in tensors),
            None,
            found.heldout,
            relative(s, y, indices),
            found.status,
            tuple(found.history),
            std=std,
        )

    def positions(self, shape: Sequence[int]) -> list[Array]:
        """For each mode its coordinates on the unit interval.

        Raises:
            ShapeError: not one for each position, or not ascending.
        """
        if self.coordinates is None:
            return [np.linspace(0.0, 1.0, n) if n > 1 else np.zeros(1) for n in shape]
        given = [np.asarray(c, dtype=float) for c in self.coordinates]
        sizes = tuple(len(c) if c.ndim == 1 else -1 for c in given)
        if sizes != tuple(shape) or any(not np.isfinite(c).all() or (np.diff(c) <= 0).any() for c in given):
            raise ShapeError(
                f"FunBaT: coordinates of {sizes} numbers for an array of shape {tuple(shape)}; give one ascending, "
                "finite number for each position of each mode."
            )
        return [(c - c[0]) / ((c[-1] - c[0]) or 1.0) for c in given]


@dataclass(slots=True, eq=False)
class Fitted:
    """What is best so far.

    Attributes:
        posterior: the fit.
        heldout: its relative error on what was held out, or None.
        status: how it ended.
        history: the rounds.
    """

    posterior: FunctionalPosterior
    heldout: float | None
    status: Status = CONVERGED
    history: list[StepInfo] = field(default_factory=list)


def relative(s: FunctionalPosterior, y: Array, indices: Array) -> float:
    """Relative error of the mean at some entries."""
    size = float(np.linalg.norm(y))
    return float(np.linalg.norm(y - s.moments_at(indices)[0]) / size) if size else 0.0


def lacking(s: FunctionalPosterior, y: Array, indices: Array) -> float:
    """The mean square of what the ranks cannot express; at most what the posterior calls noise."""
    points = np.stack([at[column] / c.length for at, c, column in zip(s.at, s.chains, indices.T, strict=True)], 1)
    return lack_of_fit(points, y - s.moments_at(indices)[0], float(1 / s.tau))


def fit_ranks(
    method: FunBaT,
    at: Sequence[Array],
    y: Array,
    indices: Array,
    aside: Array | None,
    ranks: Sequence[tuple[int, ...]],
    control: Control,
) -> Fitted:
    """One rank after the other while the held-out error falls, then a few rounds on everything.

    Args:
        method: the options.
        at: for each mode its coordinates on the unit interval.
        y: (N,) values of mean square about 1.
        indices: (N, d) places of their coordinates.
        aside: (N,) True for those to hold out, or None: then the first rank is taken.
        ranks: to be tried, ascending.
        control: deadline and progress.
    """
    chain, begun = Chain(method.kernel, method.length), monotonic()
    known = np.ones(len(y), bool) if aside is None else ~aside
    first = begin(at, chain, ranks[0], y[known], indices[known])
    best = Fitted(first, None if aside is None else relative(first, y[aside], indices[aside]))

    def descend(s: FunctionalPosterior, use: Array, steps: int) -> tuple[FunctionalPosterior, float]:
        errors: list[float] = []
        for number in range(steps):
            s = functional_round(s, y[use], indices[use], method.damping, method.learn and number % 3 == 2)
            errors.append(s.tau**-0.5 if aside is None else relative(s, y[aside], indices[aside]))
            best.history.append(StepInfo(len(best.history) + 1, errors[-1], monotonic() - begun))
            if control.progress is not None:
                control.progress(best.history[-1])
            if control.out_of_time:
                best.status = TIME_LIMIT
                break
            if number >= 5 and max(errors[-4:]) - min(errors[-4:]) <= method.tol * errors[-1]:
                break
        else:
            if best.status is CONVERGED and use is known:
                best.status = MAX_STEPS
        return s, errors[-1]

    try:
        least = inf
        for rank in ranks if aside is not None else ranks[:1]:
            best.status = CONVERGED
            trial, error = descend(begin(at, chain, rank, y[known], indices[known]), known, method.max_steps)
            if error < (1 - GAIN) * least:
                best.posterior, least = trial, error
                best.heldout = None if aside is None else error
            elif best.status is not TIME_LIMIT:
                break
            if best.status is TIME_LIMIT:
                return best
        if aside is not None:
            best.posterior = descend(best.posterior, np.ones(len(y), bool), 4)[0]
    except KeyboardInterrupt:
        best.status = INTERRUPTED
    return best
