"""How alike neighbours along a mode are, and how unlike the positions of one.

Example:
    >>> import torch
    >>> from tnkit.completion import Observations
    >>> from tnkit.completion.similarity import smoothness
    >>> slope = Observations.from_dense(torch.linspace(0, 1, 50)[:, None].expand(50, 4).contiguous())
    >>> smoothness(slope, 0) < 0.01
    True
    >>> levels = Observations.from_dense(torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).repeat(1, 4))
    >>> bool(smoothness(levels, 1) < 0.01), order(levels, 1)  # all of a row are alike, in any order
    (True, inf)
"""

from __future__ import annotations

from math import log

import torch

from tnkit.completion.observations import Observations

__all__ = ["order", "smoothness", "uneven"]


def smoothness(obs: Observations, mode: int) -> float:
    """Mean square difference of observed neighbours along a mode, over that of random pairs; inf if there are none."""
    dense, seen = obs.to_dense(), obs.mask()
    n = obs.shape[mode]
    both = seen.narrow(mode, 0, n - 1) & seen.narrow(mode, 1, n - 1)
    pairs = int(both.sum())
    if pairs < 8:
        return float("inf")
    step = (dense.narrow(mode, 1, n - 1) - dense.narrow(mode, 0, n - 1))[both].square().mean()
    spread = 2 * obs.values.var(correction=0)
    return float(step / spread) if float(spread) > 0 else float("inf")


def order(obs: Observations, mode: int) -> float:
    """Mean square difference of observed neighbours along a mode, over that of any two entries of the same fibre.

    About 1 where positions are in any order, however much the fibres differ from each other (users who rate high, and
    users who rate low); inf if there are no neighbours.
    """
    dense, seen = obs.to_dense().to(torch.float64), obs.mask()
    n = obs.shape[mode]
    both = seen.narrow(mode, 0, n - 1) & seen.narrow(mode, 1, n - 1)
    if int(both.sum()) < 8:
        return float("inf")
    step = (dense.narrow(mode, 1, n - 1) - dense.narrow(mode, 0, n - 1))[both].square().mean()
    count = seen.sum(mode, keepdim=True)
    mean = torch.where(seen, dense, 0.0).sum(mode, keepdim=True) / count.clamp_min(1)
    within = (dense - mean)[seen].square().sum() / (count - 1).clamp_min(0).sum().clamp_min(1)
    return float(step / (2 * within)) if float(within) > 0 else float("inf")


def uneven(obs: Observations) -> int | None:
    """The mode whose positions differ most in mean and scale, by the likelihood less its penalty; None: none does."""
    best, most = None, 0.0
    y = obs.values.to(torch.float64)
    y = (y - y.mean()) / y.std(correction=0).clamp_min(1e-300)
    for mode, n in enumerate(obs.shape):
        if n < 2 or obs.n < 5 * n:
            continue
        at = obs.indices[:, mode]
        count = torch.bincount(at, minlength=n).to(y)
        mean = torch.zeros(n, dtype=y.dtype, device=y.device).index_add_(0, at, y) / count.clamp_min(1)
        square = torch.zeros(n, dtype=y.dtype, device=y.device).index_add_(0, at, (y - mean[at]).square())
        spread = (square + 1e-12) / count.clamp_min(1)
        gain = -0.5 * float((count * spread.log())[count >= 2].sum()) - n * log(obs.n)
        if gain > most:
            best, most = mode, gain
    return best
