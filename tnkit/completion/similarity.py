"""How alike neighbours along a mode are.

Example:
    >>> import torch
    >>> from tnkit.completion import Observations
    >>> from tnkit.completion.similarity import smoothness
    >>> slope = Observations.from_dense(torch.linspace(0, 1, 50)[:, None].expand(50, 4).contiguous())
    >>> smoothness(slope, 0) < 0.01
    True
"""

from __future__ import annotations

from tnkit.completion.observations import Observations

__all__ = ["smoothness"]


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
