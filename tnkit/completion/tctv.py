"""T-CTV: completion of images, videos and other smooth arrays, convex, with no rank to choose.

Among all arrays with the observed values it looks for the one whose differences along the modes have the smallest
tensor nuclear norms: low rank and smoothness in one term,

    min Σ_a ‖∇_a X‖_TNN / n   with X = M on the observed entries,

by ADMM with X in the Fourier domain. TNN: an orthonormal DCT along the modes after the second, then the nuclear norms
of the slices. The thresholds 1/(nμ) are applied by Gram matrix and eigenvalues, batched over the slices.

Reference: Wang, Peng, Qin, Wang, Meng 2023, TPAMI 45(9), doi:10.1109/TPAMI.2023.3259640.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.convex import checked
from tnkit.completion.holdout_alike import split_alike
from tnkit.completion.observations import Observations
from tnkit.completion.slices import dct, shrink_slices
from tnkit.errors import OptionError
from tnkit.linalg.fourier import fft, ifft
from tnkit.solvers import INTERRUPTED, TIME_LIMIT, Outcome, Record, iterate

__all__ = ["TCTV"]


@register
@dataclass(frozen=True, slots=True)
class TCTV(CompletionMethod):
    """Tensor correlated total variation by ADMM; real arrays of 2 to 4 modes. It gives a dense array and no format.

    It iterates in float32, which is far below the accuracy of any such estimate; observed entries stay as they came.

    Attributes:
        factor: by which μ grows a step; larger is faster and coarser.
        tol: it ends when constraint violation and change of a step are below this, relative to the largest value.
        max_steps: steps of a run at the most.
        holdout: share of the observed entries (or fibres) that is held out first, and given back for the last steps; 0
            for none, which saves a third of the time.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> i, j = np.mgrid[:32, :32] / 32
        >>> x, mask = i * i + np.sin(3 * j), np.random.default_rng(0).random((32, 32)) < 0.4
        >>> done = complete(x, mask=mask, method=TCTV())
        >>> bool(np.linalg.norm(done.filled - x) < 0.03 * np.linalg.norm(x)), done.tensor is None
        (True, True)

    Cost:
        about 45 steps, each of n_2 n_3 … eigenproblems of size min(n_0, n_1) for each smooth mode.
    """

    factor: float = 1.5
    tol: float = 1e-4
    max_steps: int = 200
    holdout: float = 0.05
    name: ClassVar[str] = "tctv"
    formats: ClassVar[bool] = False
    weights: ClassVar[bool] = False
    summary: ClassVar[str] = "low rank and smoothness in one convex term; photographs, videos, maps"

    def __post_init__(self) -> None:
        """Refuse a factor that would not move μ.

        Raises:
            OptionError: factor <= 1, or tol <= 0.
        """
        if not (self.factor > 1 and self.tol > 0 and 0 <= self.holdout < 1):
            raise OptionError(f"{self!r}: factor must be above 1, tol above 0, holdout at least 0 and below 1.")

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            ShapeError: fewer than 2 or more than 4 modes.
        """
        obs = checked(problem.observations, self.name, most=4)
        scale = float(obs.values.abs().max()) or 1.0
        held = split_alike(obs, self.holdout, problem.rng)
        known = obs if held is None else obs.take(~held)
        record = Record(problem.control)
        control = replace(record.control, max_steps=self.max_steps, tol=0.0, target=self.tol)
        first = _Problem.of(known, scale, self.factor)
        outcome: Outcome[_State] = iterate(first.step, first.start(), control)
        heldout = None
        if held is not None:
            aside = obs.take(held)
            heldout = _relative(outcome.value.x, aside, scale)
            if outcome.status not in (INTERRUPTED, TIME_LIMIT):
                whole = _Problem.of(obs, scale, self.factor)
                outcome = iterate(whole.step, whole.again(outcome.value), control)
        dense = (outcome.value.x * scale).to(obs.values.dtype)
        train = _relative(outcome.value.x, obs, scale)
        status = outcome.status
        return CompletionFit(None, dense, heldout, train, status, tuple(record.steps))


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """x: the array. e: M − X off the observed entries. lam, gam: multipliers. g: the differences. mu: the penalty μ."""

    x: Tensor
    e: Tensor
    lam: Tensor
    g: tuple[Tensor, ...]
    gam: tuple[Tensor, ...]
    mu: float


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """m: observed values, 0 elsewhere. seen: where observed. modes: those with differences. symbol: 1 + Σ |F∇_a|²."""

    m: Tensor
    seen: Tensor
    modes: tuple[int, ...]
    symbol: Tensor
    transforms: tuple[Tensor, ...]
    factor: float

    @staticmethod
    def of(obs: Observations, scale: float, factor: float) -> _Problem:
        m = (obs.to_dense() / scale).to(torch.float32)
        shape = obs.shape
        modes = tuple(k for k, n in enumerate(shape) if n > 1 and (k < 2 or n >= 8))
        symbol = m.new_ones(shape)
        for a in modes:
            turns = torch.arange(shape[a], device=m.device, dtype=torch.float32) * (2 * math.pi / shape[a])
            symbol = symbol + (2 - 2 * torch.cos(turns)).reshape([-1 if k == a else 1 for k in range(m.ndim)])
        transforms = tuple(dct(n, m) for n in shape[2:])
        return _Problem(m, obs.mask(), modes or (0,), symbol, transforms, factor)

    def start(self) -> _State:
        """Missing entries at the mean of the observed ones."""
        mean = self.m.sum() / self.seen.sum()
        x = torch.where(self.seen, self.m, mean)
        zero = torch.zeros_like(x)
        none = tuple(zero for _ in self.modes)
        return _State(x, self.m - x, zero, none, none, 1e-4)

    def again(self, state: _State) -> _State:
        """Go on after the observed entries have become more: the same array, with thresholds that act again."""
        mu = state.mu / self.factor**18
        e = torch.where(self.seen, torch.zeros_like(state.e), self.m - state.x)
        g = tuple(_difference(state.x, a) for a in self.modes)
        return replace(state, e=e, g=g, mu=mu)

    def step(self, s: _State, number: int) -> tuple[_State, float]:
        """One round of the ADMM."""
        mu, n = s.mu, len(self.modes)
        right = mu * (self.m - s.e) + s.lam
        for a, g, gam in zip(self.modes, s.g, s.gam, strict=True):
            right = right + _adjoint(mu * g - gam, a)
        x: Tensor = ifft(fft(right, range(right.ndim)) / (mu * self.symbol), range(right.ndim)).real
        slopes = tuple(_difference(x, a) for a in self.modes)
        shrunk = tuple(self.shrink(d + y / mu, 1 / (n * mu)) for d, y in zip(slopes, s.gam, strict=True))
        e = torch.where(self.seen, torch.zeros_like(x), self.m - x + s.lam / mu)
        residual = self.m - x - e
        lam = s.lam + mu * residual
        gamma = tuple(y + mu * (d - z) for y, d, z in zip(s.gam, slopes, shrunk, strict=True))
        error = float(torch.maximum(residual.abs().amax(), (x - s.x).abs().amax()))
        return _State(x, e, lam, shrunk, gamma, min(mu * self.factor, 1e10)), error

    def shrink(self, t: Tensor, tau: float) -> Tensor:
        """The proximal map of τ‖·‖_TNN: singular values of the transformed slices, less τ."""
        return shrink_slices(t, self.transforms, tau)


def _difference(x: Tensor, mode: int) -> Tensor:
    return torch.roll(x, -1, mode) - x


def _adjoint(x: Tensor, mode: int) -> Tensor:
    return torch.roll(x, 1, mode) - x


def _relative(x: Tensor, obs: Observations, scale: float) -> float:
    values = obs.values.real.to(torch.float32) / scale
    got = x[tuple(obs.indices.unbind(-1))]
    norm = float(values.norm())
    return float((got - values).norm()) / norm if norm > 0 else float(got.abs().max())
