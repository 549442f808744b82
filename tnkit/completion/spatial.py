"""Smooth surfaces through the observed entries of the first two modes: a pyramid of means, and thin plates.

Example:
    >>> import torch
    >>> from tnkit.completion.spatial import pyramid
    >>> seen = torch.ones(1, 4, 4, dtype=torch.bool)
    >>> seen[0, 1, 1] = False
    >>> float(pyramid(torch.full((1, 4, 4), 2.0), seen)[0, 1, 1])
    2.0
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tnkit.completion.observations import Observations
from tnkit.solvers import NO_LIMIT, Control

__all__ = ["pyramid", "relative_error", "thin_plate"]


def relative_error(dense: Tensor, obs: Observations) -> float:
    """‖dense − values‖ / ‖values‖ at the observed entries (without the division where all are 0)."""
    values = obs.values.to(torch.float64)
    got = dense[tuple(obs.indices.unbind(-1))].to(torch.float64)
    norm = float(values.norm())
    return float((got - values).norm()) / (norm if norm > 0 else 1.0)


def pyramid(x: Tensor, seen: Tensor) -> Tensor:
    """Fill each missing pixel with the mean over the smallest cell that holds an observed one, interpolated.

    Args:
        x: (C, H, W); what stands in missing entries is not read.
        seen: (C, H, W) bool.

    Returns:
        (C, H, W), observed entries unchanged. A channel without any observed entry gets the mean of all.

    Reference:
        Gortler, Grzeszczuk, Szeliski, Cohen 1996, doi:10.1145/237170.237200 (pull-push).
    """
    weight = seen.to(x.dtype)
    value = torch.where(seen, x, 0.0)
    if min(x.shape[1:]) == 1 and max(x.shape[1:]) == 1:
        mean = value.sum() / weight.sum().clamp_min(1)
        return torch.where(seen, x, mean)
    coarse = F.avg_pool2d(value, 2, ceil_mode=True, count_include_pad=False)
    share = F.avg_pool2d(weight, 2, ceil_mode=True, count_include_pad=False)
    below = pyramid(coarse / share.clamp_min(1e-12), share > 0)
    size = (int(x.shape[1]), int(x.shape[2]))
    up = F.interpolate(below[None], size=size, mode="bilinear", align_corners=False)[0]
    return torch.where(seen, x, up)


def thin_plate(
    x: Tensor, seen: Tensor, control: Control = NO_LIMIT, *, tol: float = 1e-4, max_steps: int = 400
) -> Tensor:
    """The surface of least bending: min Σ (Δu)² over the missing entries, by conjugate gradients from the pyramid.

    Args:
        x: (C, H, W) floating point.
        seen: (C, H, W) bool.
        control: its deadline ends it.
        tol: relative residual at which it ends.
        max_steps: at the most.

    Returns:
        (C, H, W), observed entries unchanged.

    Cost:
        a few passes over the array a step; steps grow with the square of the width of the holes.

    Reference:
        Damelin, Hoang 2018, doi:10.1155/2018/3950312 (inpainting by biharmonic functions).
    """
    free = (~seen).to(x.dtype)
    u = pyramid(x, seen)
    if bool(seen.all()):
        return u
    r = -free * _laplace(_laplace(u))
    p, rr = r, r.square().sum((1, 2), keepdim=True)
    enough = tol**2 * rr.clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(max_steps):
        if control.out_of_time or bool((rr <= enough).all()):
            break
        ap = free * _laplace(_laplace(p))
        alpha = rr / (p * ap).sum((1, 2), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        u, r = u + alpha * p, r - alpha * ap
        after = r.square().sum((1, 2), keepdim=True)
        p, rr = r + after / rr.clamp_min(torch.finfo(x.dtype).tiny) * p, after
    return torch.where(seen, x, u)


def _laplace(u: Tensor) -> Tensor:
    """Sum of the differences to the neighbours; none across the border. Symmetric."""
    out = torch.zeros_like(u)
    for mode in (1, 2):
        step = torch.diff(u, dim=mode)
        n = u.shape[mode]
        out.narrow(mode, 0, n - 1).add_(step)
        out.narrow(mode, 1, n - 1).sub_(step)
    return out
