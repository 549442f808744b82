"""A cheap random sketch of a wide matrix: its columns, with random signs, summed into few buckets.

Drawing a Gaussian of n x k numbers costs more than the product with it. Here the columns are taken in runs of `width`;
each run is added to the buckets with one random cyclic shift and random signs. Two columns of one run never meet, two
of different runs meet with probability 1/width: a count sketch (one nonzero for each column) whose randomness costs n
signs, and whose application is one read of the data in its own layout.

Reference: Clarkson & Woodruff, doi:10.1145/3019134; for the error of the leading subspace, Halko, Martinsson & Tropp,
doi:10.1137/090771806.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["count_sketch", "twin_sketches"]

_CACHED = 1 << 18  # numbers of a sketch up to which it may be twice as wide while it is made


def count_sketch(a: Tensor, width: int, gen: torch.Generator) -> Tensor:
    """The sketch y = a Ω with E[Ω Ωᵀ] = I.

    Args:
        a: (m, n), any strides.
        width: the number of buckets; n or more returns `a` itself.
        gen: a generator; signs are drawn on its device.

    Returns:
        (m, width), in the memory order of `a`. E[y yᴴ] = a aᴴ.

    Cost:
        one read of `a`, n random bits.

    Example:
        >>> import torch
        >>> y = count_sketch(torch.ones(2, 100), 10, torch.Generator().manual_seed(0))
        >>> y.shape, bool((y[0] == y[1]).all())
        (torch.Size([2, 10]), True)
    """
    return a if width >= a.shape[1] else _sketches(a, width, gen, 1)[0]


def twin_sketches(a: Tensor, width: int, gen: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two sketches as `count_sketch` makes them, independent of each other: one to find things, one to test them.

    Args:
        a: (m, n), any strides.
        width: the number of buckets, below n.
        gen: a generator.

    Returns:
        two sketches (m, width).

    Cost:
        one read of `a` from memory, and one from the cache.

    Example:
        >>> import torch
        >>> y, z = twin_sketches(torch.ones(2, 100), 10, torch.Generator().manual_seed(0))
        >>> y.shape == z.shape, torch.equal(y, z)
        (True, False)
    """
    y, z = _sketches(a, width, gen, 2)
    return y, z


def _sketches(a: Tensor, width: int, gen: torch.Generator, count: int) -> list[Tensor]:
    m, n = a.shape
    across = a.stride(0) < a.stride(1)
    room = 2 * width if m * width <= _CACHED else width  # what is shifted past the end is added to the front at last
    found = [a.new_zeros((room, m)).mT if across else a.new_zeros((m, room)) for _ in range(count)]
    runs = -(-n // width)
    signs = torch.randint(0, 2, (runs, count, width), dtype=torch.int8, generator=gen, device=gen.device)
    signs = signs.to(a.device).mul_(2).sub_(1)
    shifts = torch.randint(0, width, (runs, count), generator=gen, device=gen.device).tolist()
    for j in range(runs):
        start = j * width
        stop = min(start + width, n)
        for y, shift, sign in zip(found, shifts[j], signs[j].to(a.dtype), strict=True):
            turn = min(start + room - shift, stop)  # columns from here on wrap round to bucket 0
            if turn > start:
                y[:, shift : shift + turn - start].addcmul_(a[:, start:turn], sign[: turn - start])
            if stop > turn:
                y[:, : stop - turn].addcmul_(a[:, turn:stop], sign[turn - start : stop - start])
    return found if room == width else [y[:, :width].add_(y[:, width:]) for y in found]
