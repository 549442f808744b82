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

from tnkit.solvers import NO_LIMIT, Control

__all__ = ["Places", "neighbours"]

#: Numbers of patches, row-major over their upper left corners, and (rows, columns) of these numbers.
Places: TypeAlias = tuple[Tensor, tuple[int, int]]
#: Main components of the channels by which patches are compared.
COMPONENTS = 6
#: Reference patches of a band that is searched at once.
BAND = 2**15


def neighbours(
    x: Tensor, size: tuple[int, int], stride: int, window: int, group: int, control: Control = NO_LIMIT
) -> tuple[Places, Tensor, Tensor]:
    """For patches on a grid, those most alike within a window; the patch itself is not one of them.

    Args:
        x: (C, H, W).
        size: rows and columns of a patch.
        stride: of the grid; the last row and column of patches are always on it.
        window: how far away, along rows and along columns.
        group: K, fewer than (window + 1)² and than the patches of a quarter of the window there are.
        control: its deadline ends the search between bands.

    Returns:
        The R patches of the grid, their neighbours (R, K), most alike first, and the mean squares of the differences.

    Cost:
        (2 window + 1)² / 2 passes over the image: a patch is as far from another as that one is from it.
    """
    x = _components(x)
    high, wide = x.shape[1] - size[0] + 1, x.shape[2] - size[1] + 1
    rows, columns = _grid(high, stride, x), _grid(wide, stride, x)
    refs = (rows[:, None] * wide + columns).reshape(-1)
    parts = []
    for band in rows.split(max(1, BAND // columns.shape[0])):
        control.check()
        parts.append(_band(x, band, columns, size, window, group))
    return (refs, (high, wide)), torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _band(
    x: Tensor, rows: Tensor, columns: Tensor, size: tuple[int, int], window: int, group: int
) -> tuple[Tensor, Tensor]:
    """The neighbours of the patches in some rows of the grid."""
    high, wide = x.shape[1] - size[0] + 1, x.shape[2] - size[1] + 1
    first, last = max(0, int(rows[0]) - window), min(high, int(rows[-1]) + 1)
    steps = torch.arange(-window, window + 1, device=x.device)
    shifts = torch.cartesian_prod(steps, steps)
    n, middle = shifts.shape[0], shifts.shape[0] // 2
    far = x.new_full((n, rows.shape[0], columns.shape[0]), float("inf"))
    for number, (a, b) in enumerate(shifts[middle + 1 :].tolist(), start=middle + 1):
        if a >= high or abs(b) >= wide:
            continue
        box = _distances(x, (a, b), size, first, min(last, high - a))  # of patches from row `first`, column max(0, -b)
        left = max(0, -b)
        for place, down, right in ((number, 0, left), (n - 1 - number, a, left + b)):
            up = (rows >= first + down) & (rows < first + down + box.shape[0])
            across = (columns >= right) & (columns < right + box.shape[1])
            i, j = rows[up] - first - down, columns[across] - right
            if i.numel() and j.numel():
                top, start = int(up.nonzero()[0]), int(across.nonzero()[0])
                target = far[place, top : top + i.shape[0], start : start + j.shape[0]]
                target.copy_(box.index_select(0, i).index_select(1, j))
    best = far.reshape(n, -1).mT.contiguous().topk(group, dim=1, largest=False)
    at = shifts[best.indices]
    corner = (rows[:, None] * wide + columns).reshape(-1, 1)
    return corner + at[..., 0] * wide + at[..., 1], best.values / (x.shape[0] * size[0] * size[1])


def _distances(x: Tensor, shift: tuple[int, int], size: tuple[int, int], first: int, last: int) -> Tensor:
    """Square distances of the patches in rows first … last − 1 to those that lie (a, b) from them, where there are."""
    a, b = shift
    height, wide = last - first + size[0] - 1, x.shape[2] - abs(b)
    if last <= first:
        return x.new_empty(0, 0)
    mine = x[:, first : first + height, max(0, -b) : max(0, -b) + wide]
    other = x[:, first + a : first + a + height, max(0, b) : max(0, b) + wide]
    square = (mine - other).square_().sum(0)
    return _box(_box(square, size[0], 0), size[1], 1)


def _box(t: Tensor, size: int, dim: int) -> Tensor:
    """Sums over windows, by sums of sums: no cancellation, and about log₂(size) passes."""
    n = t.shape[dim] - size + 1
    total, offset, width, sums = None, 0, 1, t
    while True:
        if size & width:
            part = sums.narrow(dim, offset, n)
            total, offset = part if total is None else total + part, offset + width
        if 2 * width > size:
            return t if total is None else total
        room = sums.shape[dim] - width
        sums = sums.narrow(dim, 0, room) + sums.narrow(dim, width, room)
        width *= 2


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
