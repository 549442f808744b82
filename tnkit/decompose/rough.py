"""One step of a rough decomposition: as exact as is cheap, before all ranks are chosen together.

The energy that it discards is part of the error budget. Nothing is wasted by that: a cut that is truncated here would
lose at least as much in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tnkit.linalg import Split, count_sketch, spectrum, split, tails

__all__ = ["Rough", "RoughSplit", "budget_caps", "rank_above_noise"]

SMALL = 300_000  # entries up to which the rough result is exact
_WORTH = 96  # shorter sides are not worth a look at the spectrum
_GENEROUS = 0.9  # share of what is left of the error budget that one cut may take at the most
_FINE = 0.02  # share of the error budget that may be spent where that is cheap


@dataclass(frozen=True, slots=True, eq=False)
class RoughSplit:
    """A matrix in two, a ≈ basis @ rest (side "left") or rest @ basisᴴ, and the squared error."""

    basis: Tensor
    rest: Tensor
    lost2: float


@dataclass(frozen=True, slots=True, eq=False)
class Rough:
    """How to split roughly.

    Attributes:
        error2: the squared error of the final result; None where only its size is limited.
        floor2: the squared error that rounding leaves.
        cuts: how many cuts there will be.
        exact: keep everything above the floor.
        gen: random numbers for sketches.
    """

    error2: float | None
    floor2: float
    cuts: int
    exact: bool
    gen: torch.Generator

    def split(self, a: Tensor, cap: int, norm2: float, spent2: float, side: str) -> RoughSplit:
        """Split a matrix, given what earlier cuts have spent; the rank is at most `cap`."""
        cap = min(cap, *a.shape)
        if self.error2 is None:
            noise = self.floor2 / max(self.cuts, 1) if self.exact else None
            part = split(a, max_rank=cap, tail2=noise, norm2=norm2, side=side, rng=self.gen)
            return RoughSplit(part.basis, part.rest, part.discarded2)
        left2 = self.error2 - spent2
        fine = self.floor2 if self.exact else max(_FINE * left2, self.floor2)
        flat = None if self.exact else self._flat(a, cap, norm2, left2)
        if flat is not None:
            part = split(a, max_rank=flat, norm2=norm2, side=side, rng=self.gen)
            if part.discarded2 <= _GENEROUS * left2:
                return RoughSplit(part.basis, part.rest, part.discarded2)
        part = split(a, max_rank=cap, tail2=fine / max(self.cuts, 1), norm2=norm2, side=side, rng=self.gen)
        rank, lost = part.rank, part.discarded2
        if not self.exact:
            rank, lost = _above_noise(part, a, left2)
        if rank == part.rank:
            return RoughSplit(part.basis, part.rest, lost)
        rest = part.rest[:rank] if side == "left" else part.rest[:, :rank]
        return RoughSplit(part.basis[:, :rank].contiguous(), rest.contiguous(), lost)

    def _flat(self, a: Tensor, cap: int, norm2: float, left2: float) -> int | None:
        """The rank to keep of a big matrix whose spectrum is flat below the signal; None where it is not, or small.

        Seen from a sketch, or from a split that is good enough for the generous tolerance: both cost about a read.
        """
        wide = a if a.shape[0] <= a.shape[1] else a.mT
        m, n = wide.shape
        if m < _WORTH or a.numel() < SMALL:
            return None
        if n >= 12 * m:
            sketched = spectrum(count_sketch(wide, max(n // 16, 2 * m), self.gen), tail2=1e-6 * norm2)
            known, missed = sketched.s2 * (norm2 / float(sketched.s2.sum())), 0.0
        else:
            part = split(wide, max_rank=m // 4, tail2=0.8 * left2, norm2=norm2, driver="randomised", rng=self.gen)
            if part.s2 is None or part.discarded2 > _GENEROUS * left2:
                return None
            known, missed = part.s2, max(norm2 - float(part.s2.sum()), 0.0)
        tail = tails(known) + missed
        generous = max(1, int((tail > _GENEROUS * left2).sum()))
        keep = min(generous + generous // 8 + 2, cap)
        if keep > m // 4 or keep >= len(known) or float(tail[keep]) > _GENEROUS * left2:
            return None
        to_halve = float(tail[keep]) / (2.0 * max(float(known[keep]), 1e-300))  # ranks, at the least
        return keep if to_halve >= 2 * generous + 16 else None


def _above_noise(part: Split, a: Tensor, left2: float) -> tuple[int, float]:
    """Fewer columns, where the fine tolerance would keep many that a generous one drops: (rank, what it discards)."""
    assert part.s2 is not None
    tail = tails(part.s2)
    missed = max(part.discarded2 - float(tail[min(part.rank, len(tail) - 1)]), 0.0)
    tail = tail + missed
    rank = rank_above_noise(tail, part.rank, min(a.shape), left2)
    return (part.rank, part.discarded2) if rank == part.rank else (rank, float(tail[rank]))


def rank_above_noise(tail: Tensor, rank: int, short: int, left2: float) -> int:
    """At most `rank`; fewer where that many are needed only to follow a flat noise floor.

    Args:
        tail: the energies that the ranks 0, 1, … discard.
        rank: what a fine tolerance asks for.
        short: the smaller side of the matrix.
        left2: the energy that a generous tolerance allows.
    """
    generous = max(1, int((tail > _GENEROUS * left2).sum()))
    middle = (generous + short) // 2
    flat = 2 * generous <= short and middle < len(tail) and float(tail[middle]) >= 0.4 * float(tail[generous])
    most = generous + generous // 8 + 2 if flat else max(3 * generous + 4, short // 4, 48)
    return min(rank, most)


def budget_caps(caps: Sequence[int], max_params: int, cost: Callable[[tuple[int, ...]], int]) -> tuple[int, ...]:
    """Ranks that no sensible use of a size budget exceeds: a few times the uniform ones."""
    low, high = 1, max(caps, default=1)
    while low < high:
        middle = (low + high + 1) // 2
        fits = cost(tuple(min(middle, cap) for cap in caps)) <= max_params
        low, high = (middle, high) if fits else (low, middle - 1)
    return tuple(min(cap, 3 * low + 8) for cap in caps)
