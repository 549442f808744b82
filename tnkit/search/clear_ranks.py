"""Ranks that the spectra of all cuts show by a gap, or above white noise, far below the error that is asked.

An array that comes from a network has, at every cut, a few singular values and then nothing, or noise. Those that
count may lie far below the error that is asked: then what eps needs does not tell the network, and the gap does. The
values of all cuts are looked at together. Where none of them lies between two levels, and these are far apart, the
counts above are the ranks of a network; data that come from none fill every such interval, mostly after a few small
cuts, and then the others are not taken.

Where noise fills the gap, what lies beyond the rank of an unfolding is noise of one variance, the same at every cut:
its m×n matrices have squared singular values of up to about (√m + √n)² times that (Marchenko & Pastur 1967). So each
cut tells a variance and a rank that agree with each other; if the variances of all cuts are alike, it is white noise.

Both readings are tnkit's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tnkit.linalg import spectrum
from tnkit.search.tree_fit import core_of
from tnkit.solvers import NO_LIMIT, Control

__all__ = ["clear_ranks"]

_GAP = 100.0  # times in squared singular values, from which an interval is a gap
_READINGS = 3  # gaps at the most
_FLOPS = 3e11  # for all spectra together: some ten seconds of one core
_NOISE_FLOPS = 3e10  # the same where noise leaves no gap
_FULL = 0.9  # share of the largest ranks, from which they tell nothing
_WIDE = 16  # singular values of a cut, from which they tell a variance
_ALIKE, _ABOVE = 1.5, 1.2  # ratio of variances that are alike; times the largest singular value of noise
_CORE = {torch.float64: 1e-9, torch.complex128: 1e-9}  # what the core may lose; of others nothing is lost
_ROUNDING = 64.0  # machine epsilons, below which a singular value is no value


def clear_ranks(x: Tensor, norm: float, eps: float, *, control: Control = NO_LIMIT) -> list[dict[int, int]]:
    """The ranks of all cuts on each side of a gap, the widest gap first; and those above white noise.

    Args:
        x: (n_0 …), three modes or more.
        norm: of it.
        eps: relative error that is asked; what lies below a gap is less than that.
        control: beyond its deadline nothing is found.

    Returns:
        for each reading the rank of every unfolding, by set of modes (a bit mask without the last mode).

    Cost:
        a singular value decomposition for each cut where there is a gap, of the array in bases of its modes, or where
        they take about a second in all. Nothing is done where all of them would take too long.

    Example:
        >>> import tnkit as tk
        >>> x = tk.random_format("tt", (5, 6, 7), (2, 3), rng=0).to_dense()
        >>> clear_ranks(x, float(x.norm()), 0.5)[0]
        {1: 2, 2: 6, 3: 3}
    """
    small = core_of(x, norm, _CORE.get(x.dtype, 0.0)).x
    masks = sorted(range(1, 2 ** (x.ndim - 1)), key=lambda mask: _sides(small, mask)[0])
    work = sum(6.0 * m**2 * n for m, n in (_sides(small, mask) for mask in masks))
    if work > _FLOPS:
        return []
    floor = (_ROUNDING * torch.finfo(x.dtype).eps) ** 2
    found: dict[int, NDArray[np.float64]] = {}
    levels: list[float] = []
    for mask in masks:
        found[mask] = spectrum(_unfolded(small, mask)).s2.cpu().numpy() / norm**2
        levels = list(_gaps(np.concatenate(list(found.values())), floor, eps))
        if control.out_of_time or (not levels and work > _NOISE_FLOPS):
            return []
    readings = [{mask: max(1, int((found[mask] > level).sum())) for mask in sorted(masks)} for level in levels]
    above = _above_noise(found, {mask: _sides(small, mask) for mask in masks}, eps)
    readings += [] if above is None or above in readings else [above]
    most = sum(_sides(x, mask)[0] for mask in masks)
    return [ranks for ranks in readings if sum(ranks.values()) <= _FULL * most]


def _above_noise(
    values: Mapping[int, NDArray[np.float64]], sides: Mapping[int, tuple[int, int]], eps: float
) -> dict[int, int] | None:
    """How many values of each cut are larger than those of the noise; None where it is not white, or more than eps."""
    wide = [mask for mask, (m, _) in sides.items() if m >= _WIDE]
    variances = [v for v in (_variance(values[mask], *sides[mask]) for mask in wide) if v is not None]
    if len(variances) < 3 or max(variances) > _ALIKE * min(variances):
        return None
    middle = float(np.median(variances))
    if middle * prod(sides[wide[0]]) > eps**2:
        return None
    tops = {mask: _ABOVE**2 * middle * (sqrt(m) + sqrt(n)) ** 2 for mask, (m, n) in sides.items()}
    return {mask: max(1, int((values[mask] > tops[mask]).sum())) for mask in sorted(sides)}


def _variance(values: NDArray[np.float64], m: int, n: int) -> float | None:
    """That of noise, where values beyond a rank leave just that rank above the noise; None where most are above it."""
    tails = np.append(values[::-1].cumsum()[::-1], 0.0)
    rank = len(values) // 2
    for _ in range(50):
        variance = float(tails[rank]) / ((m - rank) * (n - rank))
        above = int((values > _ABOVE**2 * variance * (sqrt(m) + sqrt(n)) ** 2).sum())
        if above >= rank:
            return variance if above == rank and rank < len(values) // 2 else None
        rank = above
    return None


def _gaps(values: NDArray[np.float64], floor: float, eps: float) -> Iterator[float]:
    """Levels in the middle of intervals without any value, the widest first."""
    logs = np.sort(np.log(np.append(values[values > floor], floor)))
    wide = np.diff(logs)
    for at in np.argsort(-wide)[:_READINGS]:
        if wide[at] >= np.log(_GAP) and np.exp(logs[at]) <= eps**2:
            yield float(np.exp((logs[at] + logs[at + 1]) / 2))


def _sides(x: Tensor, mask: int) -> tuple[int, int]:
    """Of an unfolding, the shorter first."""
    rows = prod(n for k, n in enumerate(x.shape) if mask >> k & 1)
    m, n = sorted((rows, x.numel() // rows))
    return m, n


def _unfolded(x: Tensor, mask: int) -> Tensor:
    rows = [k for k in range(x.ndim) if mask >> k & 1]
    columns = [k for k in range(x.ndim) if not mask >> k & 1]
    return x.permute(*rows, *columns).reshape(prod(x.shape[k] for k in rows), -1)
