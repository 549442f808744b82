"""Patch groups: non-local regression between similar patches of an image, a map or a cube of channels.

Photographs repeat themselves: for each patch there are others nearby that look alike. Low rank of such a group says
more than low rank of the whole array. With the weighted mean m and the weighted centred neighbours Z (K × n) of a patch
y, of which a part M is observed, the estimate is the conditional mean of a Gaussian with that mean and covariance,

    ŷ = m + Zᵀ (Z M Zᵀ + σ² I)⁻¹ Z M (y − m),

one K × K system a patch, solved in batches. Estimates that overlap are averaged, what is observed is put back, and it
is done again with a smaller σ; the neighbours are searched anew every second time. The start is a blend of T-CTV and
the smooth surface, and the answer a blend of these two and of what the rounds give, with weights by entries held out in
the manner in which entries are missing (`tnkit.completion.blend`); of small arrays several times, each time others.

References: Aguerrebere, Almansa, Delon, Gousseau, Musé 2017, doi:10.1137/16M1084195 (Gaussian of similar patches,
observed in part); Yu, Sapiro, Mallat 2012, doi:10.1109/TIP.2011.2176743 (piecewise linear estimation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.blend import blended, simplex_weights
from tnkit.completion.convex import checked
from tnkit.completion.holdout_alike import split_alike
from tnkit.completion.observations import Observations
from tnkit.completion.patch_rounds import PatchRounds
from tnkit.completion.spatial import relative_error
from tnkit.completion.starts import SPECTRUM, Starts, make_starts
from tnkit.errors import OptionError
from tnkit.solvers import CONVERGED, INTERRUPTED, MAX_STEPS, TIME_LIMIT, Record, Status

__all__ = ["PatchGroups"]

#: Of arrays of fewer entries, several parts are held out, one after the other.
SMALL = 2**16
FOLDS = 4


@register
@dataclass(frozen=True, slots=True)
class PatchGroups(CompletionMethod):
    """Regression between similar patches; real arrays of 2 to 4 modes, of which the first two are rows and columns.

    It gives a dense array and no format, and computes in float32. The answer is a blend with the starts, so that where
    patches do not help, which the held-out entries tell, it is that of the starts.

    Attributes:
        patch: side of a patch; None: 6, and 3 where there are 16 channels or more.
        stride: of the patches that are estimated; None: 2 for a side of 6, and 2 for a side of 3.
        group: neighbours of a patch.
        window: how far away they are looked for, along each of the two modes.
        noise: first and last σ, relative to the standard deviation of the observed entries.
        max_steps: rounds.
        holdout: share of the observed entries (fibres, blocks, rows) that is held out, and given back for the last
            third of the rounds; 0 for none. Of small arrays it is a tenth at least, several times.
        start: "auto" (T-CTV and the smooth surface blended; "channels" for spectra), "tctv", "smooth" (biharmonic)
            or "channels" (low rank along the channels; "channels 6" says the rank).

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
        checked(problem.observations, self.name, most=4)
        return _Run(self, problem).result()


@dataclass(frozen=True, slots=True, eq=False)
class _Test:
    """Estimates that have not seen some entries.

    Attributes:
        aside: these entries.
        starts: what the rounds began with.
        rounds: what they gave; None where there was no time for them.
        stopped: why it was cut short, or None.
    """

    aside: Observations
    starts: Starts
    rounds: Tensor | None
    stopped: Status | None

    @property
    def found(self) -> list[Tensor]:
        """All estimates."""
        return [*self.starts.arrays, *([] if self.rounds is None else [self.rounds])]

    @property
    def guesses(self) -> list[Tensor]:
        """Of the entries aside."""
        places = tuple(self.aside.indices.unbind(-1))
        return [x[places].to(torch.float64) for x in self.found]


class _Run:
    """One completion: estimates from part of the entries, their weights, and the same from all."""

    def __init__(self, method: PatchGroups, problem: CompletionProblem) -> None:
        self.method, self.problem, self.obs = method, problem, problem.observations
        side = method.patch or (3 if prod(self.obs.shape[2:]) >= SPECTRUM else 6)
        stride = method.stride or (side // 3 if side >= 6 else (side + 1) // 2)
        self.patches = PatchRounds.of(self.obs, side, stride, method.group, method.window)
        self.small = prod(self.obs.shape) <= SMALL
        self.record = Record(problem.control)
        self.control = self.record.control

    def result(self) -> CompletionFit:
        """Tests, weights, and the same on all entries."""
        obs, share = self.obs, self.method.holdout
        idle = obs.complete or self.patches.group < 2 or float(obs.values.abs().max()) == 0
        share = max(share, 0.1) if self.small and share > 0 else share
        tests: list[_Test] = []
        while not idle and len(tests) < (FOLDS if self.small else 1):
            held = split_alike(obs, share, self.problem.rng)
            if held is None or (tests and self.control.out_of_time):
                break
            tests.append(self.test(obs.take(~held), obs.take(held)))
            if tests[-1].stopped is not None:
                break
        if not tests:
            return self.untested(rounds=not idle)
        stopped, last = tests[-1].stopped, tests[-1]
        full = [test for test in tests if test.rounds is not None] or tests
        guesses = [torch.cat(parts) for parts in zip(*(test.guesses for test in full), strict=True)]
        truth = torch.cat([test.aside.values.to(torch.float64) for test in full])
        weights = simplex_weights(guesses, truth)
        off = float((blended(guesses, weights) - truth).norm())
        heldout = off / (float(truth.norm()) or 1.0)
        if stopped is not None:
            return self._done(blended(full[-1].found, weights), heldout, stopped)
        return self.whole(last, weights, _mean([test.starts.weights for test in tests]), heldout)

    def test(self, known: Observations, aside: Observations) -> _Test:
        """Everything without the entries aside; of large arrays, all rounds but the last third."""
        starts = make_starts(self.method.start, known, aside, self.control)
        if starts.stopped is not None:
            return _Test(aside, starts, None, starts.stopped)
        levels = self.levels()
        levels = levels if self.small else levels[: -self.late] or levels[:1]
        ended = self.patches.run(starts.blend, known, aside, levels, self.control)
        stopped = ended.status if ended.status in (INTERRUPTED, TIME_LIMIT) else None
        return _Test(aside, starts, self.patches.out(ended.value.x), stopped)

    def whole(
        self, test: _Test, weights: Sequence[float], start_weights: Sequence[float], heldout: float
    ) -> CompletionFit:
        """The estimates from all entries: anew for small arrays, otherwise the last rounds."""
        of_rounds = weights[-1]
        before = blended(test.found, weights)
        starts, x, levels = test.starts, test.rounds, self.levels()[-self.late :]
        if self.small or of_rounds < 0.5:
            name = self.method.start if len(starts.names) > 1 else starts.names[0]
            starts = make_starts(name, self.obs, None, self.control, start_weights)
            if starts.stopped is not None:
                return self._done(before, heldout, starts.stopped)
        if self.small:
            x, levels = starts.blend, self.levels()
        assert x is not None
        status = CONVERGED
        if of_rounds > 0:
            ended = self.patches.run(x, self.obs, None, levels, self.control)
            x, status = self.patches.out(ended.value.x), ended.status
            if status in (INTERRUPTED, TIME_LIMIT):
                return self._done(before, heldout, status)
        return self._done(blended([*starts.arrays, x], weights), heldout, status)

    def untested(self, *, rounds: bool) -> CompletionFit:
        """Where nothing is held out."""
        starts = make_starts(self.method.start, self.obs, None, self.control)
        if not rounds or starts.stopped is not None:
            return self._done(starts.blend, None, starts.stopped or CONVERGED)
        ended = self.patches.run(starts.blend, self.obs, None, self.levels(), self.control)
        return self._done(self.patches.out(ended.value.x), None, ended.status)

    @property
    def late(self) -> int:
        """How many rounds see all entries."""
        return (self.method.max_steps + 2) // 3

    def levels(self) -> list[float]:
        """σ of each round."""
        n, (first, least) = self.method.max_steps, self.method.noise
        return [first * (least / first) ** (k / max(1, n - 1)) for k in range(n)]

    def _done(self, x: Tensor, heldout: float | None, status: Status) -> CompletionFit:
        dense = x.to(self.obs.values.dtype)
        ended = CONVERGED if status is MAX_STEPS else status
        return CompletionFit(None, dense, heldout, relative_error(dense, self.obs), ended, tuple(self.record.steps))


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]
