"""Which patches of an image are alike.

Example:
    >>> import torch
    >>> from tnkit.completion.patch_match import neighbours
    >>> x = torch.arange(12.0).remainder(4).expand(1, 12, 12)
    >>> (refs, _), near, far = neighbours(x, (4, 4), 4, 5, 6)
    >>> tuple(near.shape), float(far.max())
    ((9, 6), 0.0)
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Places", "neighbours"]

#: Numbers of patches, row-major over their upper left corners, and (rows, columns) of these numbers.
Places: TypeAlias = tuple[Tensor, tuple[int, int]]
#: Main components of the channels by which patches are compared.
COMPONENTS = 6
#: Reference patches of a band that is searched at once.
BAND = 2**15


def neighbours(x: Tensor, size: tuple[int, int], stride: int, window: int, group: int) -> tuple[Places, Tensor, Tensor]:
    """For patches on a grid, those most alike within a window; the patch itself is not one of them.

    Args:
        x: (C, H, W).
        size: rows and columns of a patch.
        stride: of the grid; the last row and column of patches are always on it.
        window: how far away, along rows and along columns.
        group: K, fewer than (window + 1)² and than the patches of a quarter of the window there are.

    Returns:
        The R patches of the grid, their neighbours (R, K), most alike first, and the mean squares of the differences.

    Cost:
        (2 window + 1)² passes over the image.
    """
    x = _components(x)
    high, wide = x.shape[1] - size[0] + 1, x.shape[2] - size[1] + 1
    rows, columns = _grid(high, stride, x), _grid(wide, stride, x)
    refs = (rows[:, None] * wide + columns).reshape(-1)
    parts = [_band(x, band, columns, size, window, group) for band in rows.split(max(1, BAND // columns.shape[0]))]
    return (refs, (high, wide)), torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _band(
    x: Tensor, rows: Tensor, columns: Tensor, size: tuple[int, int], window: int, group: int
) -> tuple[Tensor, Tensor]:
    """The neighbours of the patches in some rows of the grid."""
    (p, q), height = size, int(x.shape[1])
    high, wide = height - p + 1, int(x.shape[2]) - q + 1
    first, last = int(rows[0]), int(rows[-1]) + p
    mine, lines = x[:, first:last], torch.arange(first, last, device=x.device)
    steps = torch.arange(-window, window + 1, device=x.device)
    shifts = torch.cartesian_prod(steps, steps)
    far = x.new_full((shifts.shape[0], rows.shape[0], columns.shape[0]), float("inf"))
    for number, (a, b) in enumerate(shifts.tolist()):
        up, across = (rows + a >= 0) & (rows + a < high), (columns + b >= 0) & (columns + b < wide)
        if (a == 0 and b == 0) or not bool(up.any() & across.any()):
            continue
        moved = torch.roll(x[:, (lines + a) % height], -b, 2)
        sums = torch.zeros(mine.shape[1] + 1, mine.shape[2] + 1, device=x.device, dtype=torch.float64)
        sums[1:, 1:] = (mine - moved).square().sum(0).cumsum(0, dtype=torch.float64).cumsum(1)
        strips = sums[rows - first + p] - sums[rows - first]
        box = (strips[:, columns + q] - strips[:, columns]).to(x.dtype)
        far[number] = torch.where(up[:, None] & across, box, float("inf"))
    best = far.reshape(shifts.shape[0], -1).topk(group, dim=0, largest=False)
    at = shifts[best.indices.mT]
    corner = (rows[:, None] * wide + columns).reshape(-1, 1)
    return corner + at[..., 0] * wide + at[..., 1], best.values.mT.clamp_min(0) / (x.shape[0] * p * q)


def _grid(n: int, stride: int, like: Tensor) -> Tensor:
    places = torch.arange(0, n, stride, device=like.device)
    return places if int(places[-1]) == n - 1 else torch.cat([places, places.new_tensor([n - 1])])


def _components(x: Tensor) -> Tensor:
    """Where there are many channels, their main components, of the same mean square."""
    if x.shape[0] <= COMPONENTS:
        return x
    flat = x.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    vectors = torch.linalg.eigh(flat @ flat.mT)[1][:, -COMPONENTS:]
    main: Tensor = (vectors.mT @ flat).reshape(COMPONENTS, *x.shape[1:]) * (COMPONENTS / x.shape[0]) ** 0.5
    return main
