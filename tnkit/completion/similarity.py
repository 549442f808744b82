"""How alike neighbours along a mode are, and how unlike the positions of one.

Example:
    >>> import torch
    >>> from tnkit.completion import Observations
    >>> from tnkit.completion.similarity import smoothness
    >>> slope = Observations.from_dense(torch.linspace(0, 1, 50)[:, None].expand(50, 4).contiguous())
    >>> smoothness(slope, 0) < 0.01
    True
"""

from __future__ import annotations

from math import log

import torch

from tnkit.completion.observations import Observations

__all__ = ["smoothness", "uneven"]


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
