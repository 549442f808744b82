"""Values at points of real coordinates: a smooth low-rank function, its standard deviations, and intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from statistics import NormalDist
from time import monotonic
from typing import Any

import numpy as np
import torch

from tnkit.arrays import ArrayLike, as_tensor
from tnkit.completion.funbat import FunctionalPosterior
from tnkit.completion.functional import FunBaT, fit_ranks, lacking
from tnkit.errors import DataError, DTypeError, MaskError, OptionError, RankError, ShapeError
from tnkit.report import listening
from tnkit.rng import RngLike, generator
from tnkit.solvers import Control, Status, StepInfo

__all__ = ["SmoothFunction", "complete_points"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SmoothFunction:
    """The result of `complete_points`: a function of real coordinates.

    Attributes:
        posterior: of the factors, on the unit interval.
        low: (d,) the smallest coordinates.
        extent: (d,) largest less smallest.
        offset: the mean of the values.
        scale: of the values about it.
        heldout_error: relative error on values that were held out (noise included), of the deviations from the mean.
        status: how it ended.
        history: the rounds.
        elapsed_s: seconds in all.
        lack: mean square of what the ranks cannot express of the function, in units of `scale`; it is part of the
            standard deviations, not of the noise.
    """

    posterior: FunctionalPosterior
    low: np.ndarray
    extent: np.ndarray
    offset: float
    scale: float
    heldout_error: float | None
    status: Status
    history: tuple[StepInfo, ...]
    elapsed_s: float
    lack: float = 0.0

    @property
    def ranks(self) -> tuple[int, ...]:
        """Of the Tucker core."""
        return self.posterior.ranks

    @property
    def noise_std(self) -> float:
        """The standard deviation of the noise, as it was found."""
        return sqrt(max(1 / self.posterior.tau - self.lack, 0.0)) * self.scale

    def predict(self, points: ArrayLike) -> np.ndarray:
        """(M,) the posterior mean.

        Args:
            points: (M, d) real coordinates; outside of those that were seen it falls back towards the prior.

        Raises:
            ShapeError: points of another number of coordinates.
        """
        return self._moments(points)[0]

    def std(self, points: ArrayLike) -> np.ndarray:
        """(M,) the standard deviation of the function, without noise.

        Args:
            points: (M, d) real coordinates.
        """
        spread: np.ndarray = np.sqrt(self._moments(points)[1])
        return spread

    def interval(self, points: ArrayLike, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """(M,) limits between which a new noisy value lies with this probability.

        Args:
            points: (M, d) real coordinates.
            level: above 0 and below 1.

        Raises:
            OptionError: a level that is no probability.
        """
        if not 0 < level < 1:
            raise OptionError(f"level={level!r} must be above 0 and below 1.")
        mean, variance = self._moments(points)
        half = NormalDist().inv_cdf(0.5 + level / 2) * np.sqrt(variance + self.noise_std**2)
        return mean - half, mean + half

    def _moments(self, points: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        at = _plain(points, "points")
        if at.ndim != 2 or at.shape[1] != len(self.low):
            raise ShapeError(f"points of shape {at.shape}; give (M, {len(self.low)}) coordinates.")
        mean, variance = self.posterior.moments(list(((at - self.low) / self.extent).T))
        return self.offset + self.scale * mean, self.scale**2 * (variance + self.lack)

    def __repr__(self) -> str:
        """A readable summary."""
        held = "not measured" if self.heldout_error is None else f"{self.heldout_error:.3g}"
        lengths = ", ".join(f"{c.length * e:.3g}" for c, e in zip(self.posterior.chains, self.extent, strict=True))
        return (
            f"SmoothFunction of {len(self.low)} coordinates, ranks {self.ranks}\n"
            f"  relative error held out {held}, noise {self.noise_std:.3g}, lengths {lengths}\n"
            f"  {self.status} ({self.elapsed_s:.3g} s)"
        )


def complete_points(
    points: ArrayLike,
    values: ArrayLike,
    *,
    rank: int | tuple[int, ...] | str = "auto",
    method: FunBaT | None = None,
    time_limit_s: float | None = None,
    rng: RngLike = 0,
    progress: bool | Callable[[StepInfo], None] | None = None,
) -> SmoothFunction:
    """A smooth function of d real coordinates from noisy values at scattered points, with posterior variances.

    Args:
        points: (N, d) finite real coordinates, in any units.
        values: (N,) finite.
        rank: an int, one for each coordinate, or "auto": grown while the held-out error falls.
        method: options, such as `FunBaT(kernel="spline")`.
        time_limit_s: seconds after which the best so far is given; so does Ctrl-C.
        rng: chooses what is held out.
        progress: True for a progress line, or a function that hears of every round.

    Returns:
        A `SmoothFunction`: `.predict(points)`, `.std(points)`, `.interval(points, 0.9)`, `.noise_std`.

    Raises:
        ShapeError, DataError, DTypeError, MaskError: points and values that do not fit, not finite, not real, or none.
        OptionError, RankError: what is asked cannot be.

    Cost:
        a round takes N (r_1 ⋯ r_d)² multiplications and one step of a filter for each distinct coordinate.

    Reference: Fang et al. 2024, arXiv:2311.04829.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> points = rng.random((300, 2))
        >>> values = np.sin(3 * points[:, 0]) * points[:, 1] + 0.05 * rng.normal(size=300)
        >>> found = complete_points(points, values, rank=2)
        >>> bool(abs(found.predict([[0.5, 0.5]])[0] - np.sin(1.5) / 2) < 0.05)
        True
    """
    begun = monotonic()
    options = FunBaT() if method is None else method
    if not isinstance(options, FunBaT) or options.coordinates is not None:
        raise OptionError("complete_points takes method=FunBaT(...) without coordinates, which the points give.")
    at, y = _plain(points, "points"), _plain(values, "values")
    if at.ndim != 2 or y.ndim != 1 or len(at) != len(y) or at.shape[1] == 0:
        raise ShapeError(f"points of shape {at.shape} and values of shape {y.shape}; give (N, d) and (N,).")
    if len(y) == 0:
        raise MaskError("No values were given; give at least one.")
    ranks = _ranks(rank, at.shape[1], options.max_rank)
    low, extent = at.min(0), at.max(0) - at.min(0)
    extent = np.where(extent > 0, extent, 1.0)
    columns = [np.unique(c, return_inverse=True) for c in ((at - low) / extent).T]
    indices = np.stack([c[1].reshape(-1) for c in columns], 1)
    offset = float(y.mean())
    scale = float(y.std()) or 1.0
    count = round(options.holdout * len(y))
    aside = None
    if count >= 2 and (rank == "auto" or len(y) >= 50):
        order = torch.randperm(len(y), generator=generator(rng)).numpy()
        aside = np.zeros(len(y), bool)
        aside[order[:count]] = True
    with listening(progress, label="completing") as hear:
        control = replace(Control(progress=hear).within(time_limit_s), max_steps=options.max_steps)
        places = [c[0] for c in columns]
        found = fit_ranks(options, places, (y - offset) / scale, indices, aside, ranks, control)
    lack = lacking(found.posterior, (y - offset) / scale, indices)
    return SmoothFunction(
        found.posterior,
        low,
        extent,
        offset,
        scale,
        found.heldout,
        found.status,
        tuple(found.history),
        monotonic() - begun,
        lack,
    )


def _plain(x: ArrayLike, name: str) -> np.ndarray:
    tensor = as_tensor(x, name=name).tensor.detach()
    if tensor.is_complex():
        raise DTypeError(f"{name} are complex; give real numbers.")
    plain: np.ndarray = tensor.double().cpu().numpy()
    if not np.isfinite(plain).all():
        raise DataError(f"{name} hold NaN or infinite numbers; leave such points out.")
    return plain


def _ranks(rank: Any, d: int, most: int) -> list[tuple[int, ...]]:
    if isinstance(rank, str) and rank == "auto":
        return [(r,) * d for r in range(1, most + 1)]
    given = (rank,) * d if isinstance(rank, int) and not isinstance(rank, bool) else rank
    whole = isinstance(given, tuple) and len(given) == d and all(isinstance(r, int) and r >= 1 for r in given)
    if not whole:
        raise RankError(f'rank={rank!r}: give a whole number of 1 or more, one for each of {d} coordinates, or "auto".')
    return [given]
