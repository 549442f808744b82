"""Low rank along the channels of a cube: smooth maps of a few main components, fitted to what is observed.

Example:
    >>> import torch
    >>> from tnkit.completion import Observations
    >>> from tnkit.completion.channels import by_channels
    >>> x = torch.linspace(1, 2, 20)[:, None, None] * torch.linspace(0, 1, 20)[:, None] + torch.linspace(0, 1, 30)
    >>> seen = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.2
    >>> done = by_channels(Observations.from_dense(x, seen))
    >>> bool((done - x).norm() < 0.05 * x.norm())
    True
"""

from __future__ import annotations

import torch
from torch import Tensor

from tnkit.completion.observations import Observations
from tnkit.completion.spatial import pyramid
from tnkit.solvers import NO_LIMIT, Control

__all__ = ["by_channels"]


def by_channels(obs: Observations, *, rank: int = 8, rounds: int = 5, control: Control = NO_LIMIT) -> Tensor:
    """A pyramid of means for each channel, then rounds of projection on the main components of the channels.

    Args:
        obs: of a real array of three or more modes; the channels are all modes after the second.
        rank: components.
        rounds: projections; after each, what it leaves of the observed entries is spread anew by the pyramid.
        control: its deadline ends them.

    Returns:
        The completed array, in the dtype of the values.
    """
    shape = obs.shape
    x, seen = (t.reshape(*shape[:2], -1).permute(2, 0, 1) for t in (obs.to_dense(), obs.mask()))
    count = seen.sum((1, 2), keepdim=True).clamp_min(1)
    mean = torch.where(seen, x, 0.0).sum((1, 2), keepdim=True) / count
    y = torch.where(seen, x - mean, 0.0)
    u = pyramid(y, seen)
    for _ in range(rounds):
        if control.out_of_time:
            break
        flat = u.flatten(1)
        vectors = torch.linalg.eigh(flat @ flat.mT)[1][:, -min(rank, flat.shape[0]) :]
        low = (vectors @ (vectors.mT @ flat)).reshape(u.shape)
        u = low + pyramid(torch.where(seen, y - low, 0.0), seen)
    dense: Tensor = (u + mean).permute(1, 2, 0).reshape(shape)
    return dense
