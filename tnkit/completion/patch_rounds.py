"""Rounds of regression between similar patches, from a start to its refinement; see `tnkit.completion.patches`.

Example:
    >>> import torch
    >>> from tnkit.completion import Observations
    >>> from tnkit.solvers import Control
    >>> x = torch.arange(24.0).sin().expand(24, 24).contiguous()
    >>> seen = torch.rand(24, 24, generator=torch.Generator().manual_seed(0)) < 0.5
    >>> rounds = PatchRounds.of(Observations.from_dense(x, seen), side=4, stride=2, group=20, window=8)
    >>> start = torch.where(seen, x, 0.0)
    >>> done = rounds.run(start, Observations.from_dense(x, seen), None, [0.4, 0.2, 0.1], Control())
    >>> bool((rounds.out(done.value.x) - x).norm() < 0.3 * (start - x).norm())
    True
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tnkit.completion.observations import Observations
from tnkit.completion.patch_match import Places, neighbours
from tnkit.completion.spatial import relative_error
from tnkit.solvers import Control, Outcome, iterate

__all__ = ["PatchRounds", "State", "regress"]

#: Numbers in the groups of patches that are worked on at once.
CHUNK = 2**21
#: How far neighbours count: weights exp(−d / (SPREAD (d_0 + σ²))).
SPREAD = 6.0


class State(NamedTuple):
    """x: (channels, rows, columns). found: the neighbours that were found last."""

    x: Tensor
    found: tuple[Places, Tensor, Tensor] | None


@dataclass(frozen=True, slots=True)
class PatchRounds:
    """What is used on an array.

    Attributes:
        shape: of the array.
        sides: of a patch, rows and columns.
        stride: of the patches that are estimated.
        group: neighbours of a patch.
        window: how far away they are looked for.
        offset: mean of the observed values.
        scale: their standard deviation.
    """

    shape: tuple[int, ...]
    sides: tuple[int, int]
    stride: int
    group: int
    window: int
    offset: float
    scale: float

    @staticmethod
    def of(obs: Observations, side: int, stride: int, group: int, window: int) -> PatchRounds:
        """The same, cut down to what fits the array; a group of less than 2 says that nothing does."""
        rows, columns = obs.shape[:2]
        sides = (min(side, rows), min(side, columns))
        near = prod(min(window + 1, n - s + 1) for n, s in zip((rows, columns), sides, strict=True))
        values = obs.values.to(torch.float64)
        scale = float(values.std(correction=0)) or 1.0
        return PatchRounds(
            obs.shape, sides, min(stride, *sides), min(group, near - 1), window, float(values.mean()), scale
        )

    def run(
        self,
        start: Tensor,
        obs: Observations,
        aside: Observations | None,
        levels: list[float],
        control: Control,
        start_error: float | None = None,
    ) -> Outcome[State]:
        """Rounds with falling σ.

        Args:
            start: the estimate to begin with, of the user's shape.
            obs: what is known.
            aside: entries whose error is that of a round; None: σ itself is, so that the last round counts.
            levels: σ of each round.
            control: deadline and progress.
            start_error: of the start.
        """
        seen = self.into(obs.mask())
        known = self.into((obs.to_dense().to(torch.float64) - self.offset) / self.scale).to(torch.float32)
        x = self.into((start.to(torch.float64) - self.offset) / self.scale).to(torch.float32)

        def step(state: State, number: int) -> tuple[State, float]:
            found = state.found
            if found is None or number % 2 == 1:
                found = neighbours(state.x, self.sides, self.stride, self.window, self.group, control)
            z = regress(state.x, known, seen, found, self.sides, levels[number - 1], control)
            x = torch.where(seen, known, z)
            error = levels[number - 1] if aside is None else relative_error(self.out(x), aside)
            return State(x, found), error

        rules = replace(control, max_steps=len(levels), tol=0.0, target=None)
        first = float("inf") if start_error is None else start_error
        return iterate(step, State(torch.where(seen, known, x), None), rules, start_error=first)

    def into(self, t: Tensor) -> Tensor:
        """(channels, rows, columns) of an array of the user's shape."""
        return t.reshape(*t.shape[:2], -1).permute(2, 0, 1).contiguous()

    def out(self, x: Tensor) -> Tensor:
        """Back to the user's shape and scale."""
        return (x.permute(1, 2, 0).to(torch.float64) * self.scale + self.offset).reshape(self.shape)


def regress(
    x: Tensor,
    known: Tensor,
    seen: Tensor,
    found: tuple[Places, Tensor, Tensor],
    size: tuple[int, int],
    sigma: float,
    control: Control,
) -> Tensor:
    """Each patch by its neighbours and by what is observed of it; overlaps averaged.

    Args:
        x: (C, H, W) the estimate from which the neighbours are taken.
        known: (C, H, W) observed values.
        seen: (C, H, W) where they are.
        found: patches, their neighbours (R, K) and mean square distances (R, K).
        size: rows and columns of a patch.
        sigma: σ.
        control: its deadline ends the work between parts.

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
        control.check()
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
