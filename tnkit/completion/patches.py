"""Patch groups: non-local regression between similar patches of an image, a map or a cube of channels.

Photographs repeat themselves: for each patch there are others nearby that look alike. Low rank of such a group says
more than low rank of the whole array. With the weighted mean m and the weighted centred neighbours Z (K × n) of a patch
y, of which a part M is observed, the estimate is the conditional mean of a Gaussian with that mean and covariance,

    ŷ = m + Zᵀ (Z M Zᵀ + σ² I)⁻¹ Z M (y − m),

one K × K system a patch, solved in batches. Estimates that overlap are averaged, what is observed is put back, and it
is done again with a smaller σ; the neighbours are searched anew every second time. The start is T-CTV, or the smooth
surface where whole blocks are missing, whichever has the smaller error on entries held out in the same manner.

References: Aguerrebere, Almansa, Delon, Gousseau, Musé 2017, doi:10.1137/16M1084195 (Gaussian of similar patches,
observed in part); Yu, Sapiro, Mallat 2012, doi:10.1109/TIP.2011.2176743 (piecewise linear estimation).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from time import monotonic
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.holdout_alike import split_alike
from tnkit.completion.observations import Observations
from tnkit.completion.patch_match import Places, neighbours
from tnkit.completion.spatial import relative_error
from tnkit.completion.starts import best_start
from tnkit.errors import DTypeError, OptionError, ShapeError
from tnkit.solvers import CONVERGED, INTERRUPTED, MAX_STEPS, TIME_LIMIT, Control, Outcome, Status, StepInfo, iterate

__all__ = ["PatchGroups"]

#: Numbers in the groups of patches that are worked on at once.
CHUNK = 2**21
#: Channels from which on a mode counts as spectrum: patches are smaller, similarity is that of the main components.
SPECTRUM = 16
#: How far neighbours count: weights exp(−d / (SPREAD (d_0 + σ²))).
SPREAD = 6.0


@register
@dataclass(frozen=True, slots=True)
class PatchGroups(CompletionMethod):
    """Regression between similar patches; real arrays of 2 to 4 modes, of which the first two are rows and columns.

    It gives a dense array and no format, and computes in float32. Where patches do not help, which the held-out entries
    tell, the answer is that of the start.

    Attributes:
        patch: side of a patch; None: 6, and 3 where there are 16 channels or more.
        stride: of the patches that are estimated; None: 2 for a side of 6, and 2 for a side of 3.
        group: neighbours of a patch.
        window: how far away they are looked for, along each of the two modes.
        noise: first and last σ, relative to the standard deviation of the observed entries.
        max_steps: rounds.
        holdout: share of the observed entries (fibres, blocks, rows) that is held out, and given back for the last
            third of the rounds; 0 for none.
        start: "auto", "tctv", "smooth" (biharmonic) or "channels" (low rank along the channels, for spectra;
            "channels 6" says the rank).

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> i, j = np.mgrid[:32, :32]
        >>> x, mask = np.sin(i + j / 2), np.random.default_rng(0).random((32, 32)) < 0.5
        >>> done = complete(x, mask=mask, method=PatchGroups())
        >>> bool(np.linalg.norm(done.filled - x) < 0.1 * np.linalg.norm(x)), done.tensor is None
        (True, True)

    Cost:
        rounds × rows × columns / stride² × (K² × observed entries of a patch + K³ / 3).
    """

    patch: int | None = None
    stride: int | None = None
    group: int = 60
    window: int = 12
    noise: tuple[float, float] = (0.4, 0.08)
    max_steps: int = 9
    holdout: float = 0.05
    start: str = "auto"
    name: ClassVar[str] = "patches"
    formats: ClassVar[bool] = False
    weights: ClassVar[bool] = False
    summary: ClassVar[str] = "regression between similar patches, from another's start; photographs, maps, spectra"

    def __post_init__(self) -> None:
        """Refuse options that cannot be.

        Raises:
            OptionError: sizes below 1 (patch: 2 for the side), noise that is not positive, an unknown start.
        """
        sizes = [n for n in (self.patch, self.stride, self.group, self.window, self.max_steps) if n is not None]
        if min(sizes) < 1 or min(self.noise) <= 0 or not 0 <= self.holdout < 1:
            raise OptionError(f"{self!r}: sizes must be at least 1, noise above 0, holdout at least 0 and below 1.")
        word, _, rank = self.start.partition(" ")
        known = self.start in ("auto", "tctv", "smooth", "channels") or (word == "channels" and rank.isdecimal())
        if not known:
            raise OptionError(f'start={self.start!r}: use "auto", "tctv", "smooth", "channels" or "channels 6".')

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            ShapeError: fewer than 2 or more than 4 modes.
        """
        obs = problem.observations
        if obs.values.is_complex():
            raise DTypeError('method "patches" takes real arrays; complete real and imaginary part apart.')
        if not 2 <= obs.ndim <= 4:
            raise ShapeError(f'method "patches" takes arrays of 2 to 4 modes; this one has shape {obs.shape}.')
        return _Run(self, problem).result()


class _Setting(NamedTuple):
    """What is used on this array: sides and stride of patches, neighbours, window."""

    sides: tuple[int, int]
    stride: int
    group: int
    window: int


class _State(NamedTuple):
    """x: (channels, rows, columns). found: the neighbours that were found last."""

    x: Tensor
    found: tuple[Places, Tensor, Tensor] | None


class _Run:
    """One completion: a start on part of the entries, rounds on that part, the last rounds on all."""

    def __init__(self, method: PatchGroups, problem: CompletionProblem) -> None:
        self.method, self.problem, self.obs = method, problem, problem.observations
        values = self.obs.values.to(torch.float64)
        self.offset = float(values.mean())
        self.scale = float(values.std(correction=0)) or 1.0
        self.history: list[StepInfo] = []
        self.begun = monotonic()
        self.setting = self._setting()

    def _setting(self) -> _Setting:
        rows, columns = self.obs.shape[:2]
        spectrum = prod(self.obs.shape[2:]) >= SPECTRUM
        side = self.method.patch or (3 if spectrum else 6)
        sides = (min(side, rows), min(side, columns))
        stride = min(self.method.stride or (side // 3 if side >= 6 else (side + 1) // 2), *sides)
        near = prod(min(self.method.window + 1, n - s + 1) for n, s in zip((rows, columns), sides, strict=True))
        return _Setting(sides, stride, min(self.method.group, near - 1), self.method.window)

    def result(self) -> CompletionFit:
        """The start, the rounds, and what the held-out entries say of them."""
        obs, control = self.obs, replace(self.problem.control, progress=self._hear)
        idle = obs.complete or self.setting.group < 2 or float(obs.values.abs().max()) == 0
        held = None if idle else split_alike(obs, self.method.holdout, self.problem.rng)
        if held is None:
            start = best_start(self.method.start, obs, None, control)
            if idle or start.stopped is not None:
                return self._done(start.x, None, start.stopped or CONVERGED)
            ended = self.rounds(start.x, obs, None, self.levels(), control)
            return self._done(self._out(ended.value.x), None, ended.status)
        known, aside = obs.take(~held), obs.take(held)
        start = best_start(self.method.start, known, aside, control)
        if start.stopped is not None:
            return self._done(start.x, start.heldout, start.stopped)
        late = (self.method.max_steps + 2) // 3
        early = self.levels()[:-late] or self.levels()[:1]
        first = self.rounds(start.x, known, aside, early, control, start.heldout)
        x, status = self._out(first.value.x), first.status
        if status not in (INTERRUPTED, TIME_LIMIT):
            if start.heldout is not None and first.error >= start.heldout:  # patches do not help here
                again = best_start(start.name, obs, None, control)
                return self._done(again.x, start.heldout, again.stopped or CONVERGED)
            second = self.rounds(x, obs, None, self.levels()[-late:], control)
            x, status = self._out(second.value.x), second.status
        return self._done(x, first.error, status)

    def levels(self) -> list[float]:
        """σ of each round."""
        n, (first, least) = self.method.max_steps, self.method.noise
        return [first * (least / first) ** (k / max(1, n - 1)) for k in range(n)]

    def rounds(
        self,
        start: Tensor,
        obs: Observations,
        aside: Observations | None,
        levels: list[float],
        control: Control,
        start_error: float | None = None,
    ) -> Outcome[_State]:
        """Rounds with falling σ; the error is that of the entries aside, or σ itself where there are none."""
        seen = self._in(obs.mask())
        known = self._in((obs.to_dense().to(torch.float64) - self.offset) / self.scale).to(torch.float32)
        x = self._in((start.to(torch.float64) - self.offset) / self.scale).to(torch.float32)
        size, stride, group, window = self.setting.sides, self.setting.stride, self.setting.group, self.setting.window

        def step(state: _State, number: int) -> tuple[_State, float]:
            found = state.found
            if found is None or number % 2 == 1:
                found = neighbours(state.x, size, stride, window, group)
            z = regress(state.x, known, seen, found, size, levels[number - 1])
            x = torch.where(seen, known, z)
            error = levels[number - 1] if aside is None else relative_error(self._out(x), aside)
            return _State(x, found), error

        rules = replace(control, max_steps=len(levels), tol=0.0, target=None)
        first = float("inf") if start_error is None else start_error
        return iterate(step, _State(torch.where(seen, known, x), None), rules, start_error=first)

    def _in(self, t: Tensor) -> Tensor:
        return t.reshape(*t.shape[:2], -1).permute(2, 0, 1).contiguous()

    def _out(self, x: Tensor) -> Tensor:
        """Back to the user's shape and scale."""
        return (x.permute(1, 2, 0).to(torch.float64) * self.scale + self.offset).reshape(self.obs.shape)

    def _done(self, x: Tensor, heldout: float | None, status: Status) -> CompletionFit:
        dense = x.to(self.obs.values.dtype)
        ended = CONVERGED if status is MAX_STEPS else status
        return CompletionFit(None, dense, heldout, relative_error(dense, self.obs), ended, tuple(self.history))

    def _hear(self, info: StepInfo) -> None:
        self.history.append(StepInfo(len(self.history) + 1, info.error, monotonic() - self.begun))
        if self.problem.control.progress is not None:
            self.problem.control.progress(self.history[-1])


def regress(
    x: Tensor, known: Tensor, seen: Tensor, found: tuple[Places, Tensor, Tensor], size: tuple[int, int], sigma: float
) -> Tensor:
    """Each patch by its neighbours and by what is observed of it; overlaps averaged.

    Args:
        x: (C, H, W) the estimate from which the neighbours are taken.
        known: (C, H, W) observed values.
        seen: (C, H, W) where they are.
        found: patches, their neighbours (R, K) and mean square distances (R, K).
        size: rows and columns of a patch.
        sigma: σ.

    Returns:
        (C, H, W).
    """
    (refs, _), near, far = found
    shape = (int(x.shape[1]), int(x.shape[2]))
    every, values, marks = (_unfold(t, size) for t in (x, known, seen.to(x.dtype)))
    n, group = every.shape[1], near.shape[1]
    total = torch.zeros_like(every)
    counts = marks[refs].sum(1)
    order = counts.argsort(stable=True)  # patches of about as many observed entries together
    for part in order.split(max(1, CHUNK // (n * group))):
        here, most = refs[part], int(counts[part[-1]])
        if 2 * most < n:  # few are observed: only these columns of the neighbours
            places = marks[here].topk(most, dim=1).indices
            some = (values[here].gather(1, places), marks[here].gather(1, places))
            columns = every.view(-1)[(near[part] * n)[:, :, None] + places[:, None, :]]
        else:
            some, columns = (values[here], marks[here]), every[near[part]]
        total[here] = F.embedding_bag(
            near[part], every, mode="sum", per_sample_weights=_shares(columns, *some, far[part], sigma)
        )
    count = torch.zeros_like(every[:, :1])
    count[refs] = 1.0
    high = F.fold(total.mT[None], shape, size)[0]
    times = F.fold(count.expand(-1, prod(size)).mT[None], shape, size)[0]
    return torch.where(times > 0, high / times.clamp_min(1.0), x)


def _shares(groups: Tensor, values: Tensor, marks: Tensor, far: Tensor, sigma: float) -> Tensor:
    """The formula of the module as weights of the neighbours, (R, K).

    Args:
        groups: (R, K, m) the neighbours, in the entries that count.
        values: (R, m) what is observed there.
        marks: (R, m) 1 where something is.
        far: (R, K) distances.
        sigma: σ.
    """
    share = torch.exp(-far / (SPREAD * (far[:, :1] + sigma**2)))
    share = share / share.sum(1, keepdim=True)
    mean = share[:, None] @ groups
    rest = (values * marks)[:, None] - mean * marks[:, None]
    seen = (groups - mean) * share.sqrt()[:, :, None] * marks[:, None]  # √share (g − m), 0 where not observed
    if seen.shape[2] < seen.shape[1]:
        solved = _ridge(seen.mT @ seen, rest.mT, sigma)  # Z_Mᵀ (Z_M Z_Mᵀ + σ²)⁻¹ = (Z_Mᵀ Z_M + σ²)⁻¹ Z_Mᵀ
        weight = (seen @ solved)[..., 0]
    else:
        weight = _ridge(seen @ seen.mT, seen @ rest.mT, sigma)[..., 0]
    weight = weight * share.sqrt()
    return share * (1 - weight.sum(1, keepdim=True)) + weight


def _ridge(gram: Tensor, right: Tensor, sigma: float) -> Tensor:
    gram.diagonal(dim1=1, dim2=2).add_(sigma**2)
    return torch.cholesky_solve(right, torch.linalg.cholesky_ex(gram)[0])


def _unfold(t: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, H, W) to its patches, (positions, C · p · q)."""
    return F.unfold(t[None], size)[0].mT.contiguous()
